"""Block DCT of images as pure functions of tensors: separable, without an upsampled image in memory.

Bilinear upsampling, cutting into blocks and the DCT are all linear and separable. So each axis has one matrix, from
pixels to coefficients, and a coefficient of frequencies (u, v) at block (y, x) is
`Σ axis[u,y,n]·axis[v,x,m]·pixel[n,m]`. Where a block's samples lie between three neighbouring pixels (upsampled by as
much as the stride) the matrix has three taps a row, and three sums of shifted images per axis do it all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

_CACHED = 1 << 22  # values of the output computed at a time on a CPU: what its last cache holds
_AT_ONCE = 1 << 25  # values at a time elsewhere, where more only takes memory
_NOTHING = 1e-9  # greatest coefficient of what carries nothing, of pixels in [0,1]; a rounding error of fp64
_TYPICAL = 16  # pixels of a line that shows which frequencies carry nothing; of two pixels more seem to
_LUMA = (0.299, 0.587, 0.114)


def dct_matrix(block: int) -> Tensor:
    """Return the orthonormal DCT-II, `[frequency, sample]` float64.

    Args:
        block: samples.

    Source: Ahmed, Natarajan, Rao, "Discrete cosine transform", 1974; as `scipy.fft.dct(norm="ortho")`.
    """
    frequency = torch.arange(block, dtype=torch.float64)[:, None]
    sample = torch.arange(block, dtype=torch.float64)[None]
    matrix = torch.cos(math.pi * (2 * sample + 1) * frequency / (2 * block)) * math.sqrt(2 / block)
    matrix[0] /= math.sqrt(2)
    return matrix


@dataclass(frozen=True)
class Blocks:
    """How images are cut into blocks.

    Args:
        block: side of a block in samples.
        upsample: factor by which an image is enlarged before, bilinear.
        stride: samples from one block to the next.
        align_corners: whether the corner pixels keep their places in the enlarged image, see
            `torch.nn.functional.interpolate`.
    """

    block: int = 8
    upsample: int = 8
    stride: int = 8
    align_corners: bool = True

    def count(self, size: int) -> int:
        """Return the number of blocks along a side.

        Args:
            size: the side in pixels.

        Raises:
            ValueError: blocks do not fill the side.
        """
        rest = size * self.upsample - self.block
        if rest < 0 or rest % self.stride:
            enlarged = f"{size} pixels" + (
                f" enlarged to {size * self.upsample}" if self.upsample > 1 else ""
            )
            others = (
                f"images whose side is a multiple of the block, or upsample by {self.stride}, or "
                if self.block % self.stride == 0
                else ""
            )
            raise ValueError(
                f"block {self.block}, stride {self.stride}: do not fill a side of {enlarged}: give {others}a stride "
                "that fits (1 always does)"
            )
        return rest // self.stride + 1

    def size(self, count: int) -> int:
        """Return the side in pixels that has so many blocks along it.

        Args:
            count: blocks.

        Raises:
            ValueError: there is none.
        """
        samples = (count - 1) * self.stride + self.block
        if count < 1 or samples % self.upsample:
            raise ValueError(f"{count} blocks a side: no image has so many")
        return samples // self.upsample

    @property
    def dead(self) -> list[int]:
        """List the frequencies along an axis whose coefficients are 0 whatever the image is.

        Raises:
            ValueError: blocks fill no image.
        """
        sizes = range(_TYPICAL, _TYPICAL + self.block * self.stride)
        size = next((n for n in sizes if (n * self.upsample - self.block) % self.stride == 0), None)
        if size is None:
            raise ValueError(
                f"block {self.block}, upsample {self.upsample}, stride {self.stride}: fill images of no size"
            )
        strength = axis_matrix(self, size).abs().amax((1, 2))
        return [k for k in range(self.block) if float(strength[k]) < _NOTHING]


@cache
def axis_matrix(blocks: Blocks, size: int) -> Tensor:
    """Return what turns a line of pixels into coefficients, `[frequency, block, pixel]` float64.

    Args:
        blocks: how the line is cut.
        size: pixels of the line.

    Raises:
        ValueError: blocks do not fill the line.
    """
    count = blocks.count(size)
    line = torch.eye(size, dtype=torch.float64)[:, None]
    if blocks.upsample > 1:
        line = F.interpolate(
            line, scale_factor=blocks.upsample, mode="linear", align_corners=blocks.align_corners
        )
    windows = line[:, 0].unfold(1, blocks.block, blocks.stride)  # [pixel, block, sample]
    assert windows.shape[1] == count
    return torch.einsum("ks,nys->kyn", dct_matrix(blocks.block), windows)


@cache
def _inverse_matrix(blocks: Blocks, size: int) -> Tensor:
    """Return the pseudo-inverse of `axis_matrix`, `[pixel, frequency, block]` float64."""
    matrix = axis_matrix(blocks, size)
    inverse: Tensor = torch.linalg.pinv(matrix.flatten(0, 1))
    return inverse.view(size, *matrix.shape[:2])


@cache
def _three_taps(blocks: Blocks, size: int) -> Tensor | None:
    """Return the weights of the pixels before, at and after a block, `[frequency, 3, block]`, if that is all."""
    matrix = axis_matrix(blocks, size)
    if matrix.shape[1] != size:
        return None
    near = (torch.arange(size)[:, None] - torch.arange(size)).abs() <= 1  # [block, pixel]
    if float((matrix * ~near).abs().max()) > 0:
        return None
    framed = F.pad(matrix, (1, 1))
    return torch.stack([framed.diagonal(tap, 1, 2)[:, :size] for tap in range(3)], 1).float()


def block_dct(
    planes: Tensor, blocks: Blocks, keep: Sequence[int] | None = None, out: Tensor | None = None
) -> Tensor:
    """Transform image planes; coefficients of one frequency form a channel.

    In fp32 on every device and under autocast: sums of shifted images, no convolution and no fp32 product of matrices
    (which may be done in TF32). Where a block reaches further than three pixels, products of matrices in fp64.

    Args:
        planes: `[B,P,H,W]` float.
        blocks: how they are cut.
        keep: numbers of the channels to compute, ascending: `(plane·block + u)·block + v`, u the vertical and v the
            horizontal frequency; all of them by default.
        out: `[B,C,h,w]` float32 to write to.

    Returns:
        `[B,C,h,w]` float32, a channel for each of `keep`, a value for each block.

    Raises:
        ValueError: blocks do not fill a side.
    """
    height, width = blocks.count(planes.shape[-2]), blocks.count(planes.shape[-1])
    kept = range(planes.shape[1] * blocks.block**2) if keep is None else keep
    if out is None:
        out = planes.new_empty(len(planes), len(kept), height, width, dtype=torch.float32)
    for part, made in zip(*(x.split(images_at_a_time(out)) for x in (planes, out)), strict=True):
        _transform(part, blocks, list(kept), made)
    return out


def coefficient_ranges(blocks: Blocks, keep: Sequence[int], size: tuple[int, int]) -> Tensor:
    """Return how far each channel's coefficients can lie apart, whatever the images are: greatest minus least.

    It follows from the transform alone: a coefficient's range is the sum of its weights' sizes, for pixels (and chroma)
    lie within a range of 1. Of the blocks it is the widest.

    Args:
        blocks: how images are cut.
        keep: numbers of the channels, see `block_dct`.
        size: (height, width) of the images in pixels.

    Returns:
        `[C]` float64.

    Raises:
        ValueError: blocks do not fill the images.
    """
    down, along = (axis_matrix(blocks, side).abs().sum(2).amax(1) for side in size)
    u, v = (torch.tensor(list(keep)) // each % blocks.block for each in (blocks.block, 1))
    return down[u] * along[v]


def images_at_a_time(out: Tensor) -> int:
    """Return how many images to compute at a time: what is made of them on the way shall stay in a CPU's cache.

    Args:
        out: `[B,C,h,w]`, what is computed.
    """
    most = _CACHED if out.device.type == "cpu" else _AT_ONCE
    return max(1, most // max(1, out[0].numel() if len(out) else 1))


def _transform(planes: Tensor, blocks: Blocks, keep: list[int], out: Tensor) -> None:
    rows, columns = (_three_taps(blocks, side) for side in planes.shape[-2:])
    if rows is None or columns is None:
        down, along = (axis_matrix(blocks, side).to(planes.device) for side in planes.shape[-2:])
        partly = torch.einsum("lxm,bpnm->bplnx", along, planes.double())
        found = torch.einsum("kyn,bplnx->bpklyx", down, partly).flatten(1, 3)
        out.copy_(found[:, keep])
        return
    rows, columns = rows.to(planes.device), columns.to(planes.device)
    across = _across(planes.float(), columns)  # [b,P,v,H+2,W], a row of nothing above and below
    at = 0
    for plane in range(planes.shape[1]):
        for u in range(blocks.block):
            first = (plane * blocks.block + u) * blocks.block
            v = [k - first for k in keep if first <= k < first + blocks.block]
            if not v:
                continue
            lines = across[:, plane, v[0] : v[-1] + 1]
            if len(v) != lines.shape[1]:
                lines = across[:, plane, v]
            made = out[:, at : at + len(v)]
            before, here, after = rows[u, :, :, None]
            torch.mul(lines[:, :, :-2], before, out=made)
            made.addcmul_(lines[:, :, 1:-1], here).addcmul_(lines[:, :, 2:], after)
            at += len(v)


def _across(planes: Tensor, taps: Tensor) -> Tensor:
    """Transform lines: `[b,P,H,W]` and `[v,3,W]` → `[b,P,v,H+2,W]`, framed by a row of zeros on either side."""
    batch, count, height, width = planes.shape
    out = planes.new_zeros(batch, count, len(taps), height + 2, width)
    framed = F.pad(planes, (1, 1))[:, :, None]
    before, here, after = taps[:, :, None].unbind(1)  # [v,1,W] each
    inner = out[..., 1:-1, :]
    torch.mul(framed[..., :-2], before, out=inner)
    inner.addcmul_(framed[..., 1:-1], here).addcmul_(framed[..., 2:], after)
    return out


def inverse_block_dct(channels: Tensor, blocks: Blocks, keep: Sequence[int], planes: int = 1) -> Tensor:
    """Make image planes of coefficients: those that were dropped are zero.

    The inverse DCT of every block, and of the enlarged or overlapping blocks the image that fits them best (least
    squares). With all coefficients of a plane it is the plane, to the rounding error of fp32.

    Args:
        channels: `[B,C,h,w]` float, as `block_dct` gives them.
        blocks: how the image was cut.
        keep: numbers of the C channels, see `block_dct`.
        planes: P.

    Returns:
        `[B,P,H,W]` float32.

    Raises:
        ValueError: no image has so many blocks.
    """
    sizes = tuple(blocks.size(side) for side in channels.shape[-2:])
    down, along = (_inverse_matrix(blocks, size).to(channels.device) for size in sizes)
    out = channels.new_empty(len(channels), planes, *sizes, dtype=torch.float32)
    for part, made in zip(*(x.split(images_at_a_time(channels)) for x in (channels, out)), strict=True):
        full = part.new_zeros(len(part), planes * blocks.block**2, *part.shape[2:], dtype=torch.float64)
        full[:, list(keep)] = part.double()
        partly = torch.einsum(
            "mlx,bpklyx->bpkym", along, full.unflatten(1, (planes, blocks.block, blocks.block))
        )
        made.copy_(torch.einsum("nky,bpkym->bpnm", down, partly))
    return out


def grey(image: Tensor) -> Tensor:
    """Return the luma of RGB images: `[B,3,H,W]` → `[B,1,H,W]` float32; of a grey image exactly its channel."""
    red, green, blue = image.float().unbind(1)
    # as differences to one channel: grey images stay what they are, to the last bit
    return (green + _LUMA[0] * (red - green) + _LUMA[2] * (blue - green))[:, None]


def ycbcr(image: Tensor) -> Tensor:
    """Return luma and chroma of RGB images, chroma around 0: `[B,3,H,W]` → `[B,3,H,W]` float32."""
    red, _, blue = image.float().unbind(1)
    luma = grey(image)[:, 0]
    return torch.stack([luma, (blue - luma) / 1.772, (red - luma) / 1.402], 1)


def from_ycbcr(planes: Tensor) -> Tensor:
    """Return what `ycbcr` was given: `[B,3,H,W]` → `[B,3,H,W]`."""
    luma, blueness, redness = planes.unbind(1)
    red, blue = luma + 1.402 * redness, luma + 1.772 * blueness
    return torch.stack([red, (luma - _LUMA[0] * red - _LUMA[2] * blue) / _LUMA[1], blue], 1)


def zigzag(block: int) -> list[int]:
    """List the coefficients of a block from low to high frequency, as JPEG does; the first is the DC.

    Args:
        block: side of the block.
    """
    cells = [(u, v) for u in range(block) for v in range(block)]
    cells.sort(key=lambda cell: (sum(cell), cell[0] if sum(cell) % 2 else cell[1]))
    return [u * block + v for u, v in cells]
