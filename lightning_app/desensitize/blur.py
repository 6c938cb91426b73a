"""Gaussian blur, of the whole image or of its centre."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from lightning_app.core.plain import Schema, is_count, is_number
from lightning_app.desensitize.base import LEAST_HIDDEN, SHARPEST, Desensitizer
from lightning_app.desensitize.centre import centre_box, check_fraction, fraction_entry

WIDEST = 1 << 15  # of a window, in pixels: no image is so large, and its weights are a list
NARROWEST = 0.5  # sigma in pixels: below, the middle pixel keeps 79 % of its weight and more
# px, standard deviation of a blur's weights: what a narrower one does, nothing tells from soft faces
LEAST_WIDTH = 1.2
_MOSAIC_WIDTHS = 3.2  # so many times its width is the block of a mosaic that halves the same wave
_CACHED = 1 << 16  # pixels blurred at a time on a CPU: what its second cache holds, with what is made of them


def gaussian_taps(kernel: int, sigma: float | None = None) -> list[float]:
    """Return the weights of a Gaussian window, which sum to 1.

    Args:
        kernel: its width in pixels, at least 2; an even one gets kernel + 1 weights, see `GaussianBlur`.
        sigma: standard deviation in pixels; None takes OpenCV's rule, 0.3·((kernel − 1)/2 − 1) + 0.8.

    Raises:
        ValueError: on a kernel or sigma out of range.
    """
    if kernel < 2:
        raise ValueError(f"kernel: {kernel} blurs nothing; take 2 or more pixels (the paper takes 9 and 18)")
    if kernel > WIDEST:
        raise ValueError(f"kernel: {kernel} is wider than any image; take {WIDEST} pixels at most")
    sigma = default_sigma(kernel) if sigma is None else sigma
    if not (math.isfinite(sigma) and 0 < sigma <= WIDEST):
        raise ValueError(f"sigma: {sigma} is not a positive number of pixels up to {WIDEST}")
    if sigma < NARROWEST:
        raise ValueError(f"sigma: {sigma} blurs next to nothing; take {NARROWEST} pixels or more")
    reach = kernel // 2
    weights = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-reach, reach + 1)]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def default_sigma(kernel: int) -> float:
    """Return OpenCV's standard deviation for a Gaussian window of this width, both in pixels."""
    return 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8


def blur(image: Tensor, taps: list[float]) -> Tensor:
    """Blur images along both axes; beyond the edge lies the mirror image (without the edge pixel again).

    Sums of shifted images, no convolution: exact fp32 on every device (a convolution may be done in TF32 or,
    under autocast, in bf16), and on a CPU several times as fast as a depthwise one.

    Args:
        image: `[...,H,W]` float, four dimensions.
        taps: an odd number of weights, symmetric.

    Returns:
        The same shape, float32.

    Raises:
        ValueError: if the image is not larger than half the window.
    """
    reach = len(taps) // 2
    if min(image.shape[-2:]) <= reach:
        raise ValueError(
            f"kernel: {len(taps)} taps are too wide for images of {image.shape[-2]}×{image.shape[-1]}; "
            f"they need {reach + 1} pixels a side"
        )
    out = image.to(torch.float32)
    if image.device.type != "cpu":
        return _shifted(out, taps)
    planes = out.reshape(-1, 1, *out.shape[-2:])
    few = max(1, _CACHED // (out.shape[-2] * out.shape[-1]))
    return torch.cat([_shifted(part, taps) for part in planes.split(few)]).view(out.shape)


def _shifted(out: Tensor, taps: list[float]) -> Tensor:
    """Sum weighted shifts of float32 images `[N,C,H,W]` along both axes."""
    reach = len(taps) // 2
    for axis, pad in ((-1, (reach, reach, 0, 0)), (-2, (0, 0, reach, reach))):
        length = out.shape[axis]
        padded = F.pad(out, pad, mode="reflect")
        out = padded.narrow(axis, reach, length) * taps[reach]
        for left in range(reach):
            pair = padded.narrow(axis, left, length) + padded.narrow(axis, 2 * reach - left, length)
            out.add_(pair.mul_(taps[left]))
    return out


def weak_blur(kernel: int, sigma: float, size: int) -> list[str]:
    """Return what is wrong with a window that leaves faces as good as clean, or that nothing tells from clean ones.

    Args:
        kernel: its width in pixels.
        sigma: standard deviation in pixels.
        size: side of the images in pixels.
    """
    reach = kernel // 2
    width = math.sqrt(sum(t * (i - reach) ** 2 for i, t in enumerate(gaussian_taps(kernel, sigma))))
    least = max(LEAST_WIDTH, size / (_MOSAIC_WIDTHS * SHARPEST))
    if width >= least:
        return []
    return [
        f"sigma {sigma:g} with {2 * reach + 1} weights blurs by {width:.2f} pixels, less than {least:.2f}: images of "
        f"{size} pixels are as good as clean"
    ]


class GaussianBlur(Desensitizer):
    """Blur the whole image with a Gaussian window (the paper's kernel sizes: 9 and 18).

    An even kernel has no middle pixel: its k weights would move the image by half a pixel, which puts
    blurred and clean faces out of line, spoils dSSIM, and is why OpenCV refuses it. It keeps the sigma of
    its own k and is cut off at k + 1 weights, which are centred; at 18 the two
    outermost weights come to 0.3 %.

    Args:
        kernel: width of the window in pixels, at least 2.
        sigma: standard deviation in pixels, at least 0.5; None takes OpenCV's rule,
            0.3·((kernel − 1)/2 − 1) + 0.8, which gives 1.7 for 9 and 3.05 for 18.

    Raises:
        ValueError: on a kernel or sigma out of range, and for images not larger than half the window.

    Source: On Mask-based Image Set Desensitization with Recognition Support, figure 7; OpenCV's
    `getGaussianKernel` for sigma. Edges as OpenCV's BORDER_REFLECT_101.
    """

    in_words = (
        "The whole face is blurred: fine lines are lost, the rough shape stays. Blur is weaker than it looks, for "
        "a network can learn to undo it."
    )
    has_mask = False

    def __init__(self, kernel: int = 9, sigma: float | None = None) -> None:
        super().__init__()
        self.taps = gaussian_taps(kernel, sigma)
        self.kernel, self.sigma = kernel, default_sigma(kernel) if sigma is None else sigma

    def desensitize(self, image: Tensor) -> Tensor:
        """Blur images `[B,3,H,W]` float in [0,1]; the same shape and range, float32."""
        return blur(image, self.taps).clamp_(0, 1)

    def describe(self) -> dict[str, object]:
        """Return method, kernel as asked, number of weights, and sigma in pixels."""
        return super().describe() | {"kernel": self.kernel, "taps": len(self.taps), "sigma": self.sigma}

    @classmethod
    def from_description(cls, description: Mapping[str, Any], mask: str | Path | None = None) -> Self:
        """Make it of kernel and sigma."""
        return cls(description["kernel"], description["sigma"])

    @classmethod
    def entries(cls, size: int, version: int) -> list[Schema]:
        """List what a manifest may say of it: kernel, number of weights, sigma."""
        # half of the window must fit into the image, see `blur`
        most = 2 * size - 1
        return [{
            "kernel": (lambda v: is_count(v, 2, most), f"a number of pixels from 2 to {most}"),
            "taps": (lambda v: is_count(v, 3, most), f"an odd number of weights up to {most}"),
            "sigma": (lambda v: is_number(v, 0, size, None), f"a number of pixels up to {size}"),
        }]  # fmt: skip

    @classmethod
    def weaknesses(cls, description: Mapping[str, Any], size: int) -> list[str]:
        """Return what is wrong with a window that is too narrow."""
        return weak_blur(description["kernel"], description["sigma"], size)

    @classmethod
    def leaves(cls, description: Mapping[str, Any], size: int) -> dict[str, Any] | None:
        """Return what it leaves: next to nothing of fine waves."""
        if "kernel" not in description:
            return None
        return {"taps": gaussian_taps(description["kernel"], description["sigma"])}


class CentreBlur(Desensitizer):
    """Blur a centred rectangle and leave the rest; no pixel is hidden, so there is no mask.

    Pixels near the rectangle's edge are blurred with their true neighbours on both sides.

    Args:
        fraction: share of each side that the rectangle takes, in (0, 1); 0.5 is a quarter of the pixels.
        kernel: side of the kernel, as for `GaussianBlur`.
        sigma: standard deviation of the kernel, as for `GaussianBlur`.

    Raises:
        ValueError: on a fraction, kernel or sigma out of range, and for images not larger than half the
            window.
    """

    in_words = "A rectangle in the middle of every face is blurred, and the rest stays sharp."
    has_mask = False

    def __init__(self, fraction: float = 0.5, kernel: int = 18, sigma: float | None = None) -> None:
        super().__init__()
        check_fraction(fraction)
        self.fraction, self.blur = fraction, GaussianBlur(kernel, sigma)

    def desensitize(self, image: Tensor) -> Tensor:
        """Blur the centre of images `[B,3,H,W]` float in [0,1]; the same shape and range, float32."""
        rows, columns = centre_box((image.shape[-2], image.shape[-1]), self.fraction)
        desensitized = image.to(torch.float32, copy=True)
        desensitized[..., rows, columns] = self.blur.desensitize(image)[..., rows, columns]
        return desensitized

    def describe(self) -> dict[str, object]:
        """Return method, fraction, and the blur's kernel, weights and sigma."""
        return self.blur.describe() | super().describe() | {"fraction": self.fraction}

    @classmethod
    def from_description(cls, description: Mapping[str, Any], mask: str | Path | None = None) -> Self:
        """Make it of fraction, kernel and sigma."""
        return cls(description["fraction"], description["kernel"], description["sigma"])

    @classmethod
    def entries(cls, size: int, version: int) -> list[Schema]:
        """List what a manifest may say of it: the blur's entries and its fraction."""
        return [{**blur, **fraction_entry()} for blur in GaussianBlur.entries(size, version)]

    @classmethod
    def weaknesses(cls, description: Mapping[str, Any], size: int) -> list[str]:
        """Return what is wrong with a rectangle that is too small or a window that is too narrow."""
        rows, columns = centre_box((size, size), description["fraction"])
        share = (rows.stop - rows.start) * (columns.stop - columns.start) / size**2
        faults = []
        if share < LEAST_HIDDEN:
            faults.append(
                f"fraction {description['fraction']} blurs {share:.4f} of the pixels, less than {LEAST_HIDDEN}: images "
                "are as good as clean"
            )
        return faults + weak_blur(description["kernel"], description["sigma"], size)

    @classmethod
    def leaves(cls, description: Mapping[str, Any], size: int) -> dict[str, Any] | None:
        """Return what it leaves: next to nothing of fine waves, within the rectangle."""
        found = GaussianBlur.leaves(description, size)
        if found is None:
            return None
        box = centre_box((size, size), description["fraction"])[0] if "fraction" in description else None
        return found | {"box": box}
