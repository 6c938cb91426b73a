"""Masks as packed bits: a bank of thousands stays small and is opened a batch at a time on its device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Size = int | tuple[int, int]
Array = npt.NDArray[np.uint8]


def as_size(size: int | Sequence[int]) -> tuple[int, int]:
    """Read an image size.

    Args:
        size: the side of a square, or (height, width), in pixels.

    Returns:
        (height, width).

    Raises:
        ValueError: if it is neither, or not positive.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ValueError(f"size: {size!r} is neither a positive number of pixels nor (height, width)")
    return pair[0], pair[1]


def size_text(size: int | Sequence[int]) -> str:
    """Return the size as people write it, height first: `112×112`."""
    height, width = as_size(size)
    return f"{height}×{width}"


def as_array(mask: Tensor) -> Array:
    """Bring one mask or a batch of them to one form.

    Args:
        mask: `[H,W]`, `[1,H,W]` or `[N,1,H,W]`, any dtype, 1 = visible, 0 = hidden.

    Returns:
        `[N,H,W]` uint8 of 0 and 1, in the CPU's memory.

    Raises:
        ValueError: on another shape, or values other than 0 and 1.
    """
    shape = tuple(mask.shape)
    if len(shape) not in (2, 3, 4) or (len(shape) > 2 and shape[-3] != 1) or 0 in shape:
        raise ValueError(f"mask: shape {list(shape)} is none of [H,W], [1,H,W], [N,1,H,W]")
    values = mask.detach().reshape(-1, *shape[-2:])
    visible = values == 1
    if not bool((visible | (values == 0)).all()):
        raise ValueError("mask: holds values other than 0 (hidden) and 1 (visible); threshold it first")
    return np.asarray(visible.to("cpu", torch.uint8).numpy(), dtype=np.uint8)


def pack_masks(mask: Tensor) -> Tensor:
    """Pack masks to one bit a pixel, row by row, the first pixel in the highest bit.

    Args:
        mask: as `as_array` takes it.

    Returns:
        `[N, ceil(H·W/8)]` uint8 on the CPU; the last byte of a mask is filled with zeros. 12,000 masks of
        112×112 take 19 MB this way, of 224×224 75 MB.

    Raises:
        ValueError: as `as_array`.
    """
    array = as_array(mask)
    return torch.from_numpy(np.packbits(array.reshape(len(array), -1), axis=1))


def unpack_masks(bits: Tensor, size: Size) -> Tensor:
    """Undo `pack_masks`, on the device the bits are on.

    Args:
        bits: `[N, ceil(H·W/8)]` uint8.
        size: side or (height, width) of the masks.

    Returns:
        `[N,1,H,W]` float32 of 0 and 1.
    """
    height, width = as_size(size)
    weights = 2 ** torch.arange(7, -1, -1, device=bits.device)  # [8], made on the device: no copy to wait for
    flat = (bits.unsqueeze(-1) & weights.to(torch.uint8)).ne(0).flatten(1)[:, : height * width]
    return flat.to(torch.float32).view(len(bits), 1, height, width)
