"""How pixels become what a network is fed: the one place where the formula stands."""

from __future__ import annotations

from torch import Tensor


def normalised(image: Tensor, mean: float | Tensor, std: float | Tensor) -> Tensor:
    """Return (image − mean) / std.

    Args:
        image: of any shape; pixels are in [0,1].
        mean: one number, or a tensor that broadcasts, such as `[1,C,1,1]`.
        std: likewise.
    """
    return (image - mean) / std


def denormalised(image: Tensor, mean: float | Tensor, std: float | Tensor) -> Tensor:
    """Return image · std + mean in fp32: what `normalised` was given.

    Args:
        image: of any shape and dtype.
        mean: see `normalised`.
        std: likewise.
    """
    return image.float() * std + mean
