"""The bits of pixels as channels, for who looks for what was written into the lowest ones."""

from __future__ import annotations

import torch
from torch import Tensor

BITS = 8


def with_bit_planes(image: Tensor) -> Tensor:
    """Return pictures with the eight bits of every value behind them.

    A network sees a change of one level in 255 as next to nothing; as a bit it is as loud as any other.

    Args:
        image: `[B,C,h,w]` float in [0,1], multiples of 1/255.

    Returns:
        `[B,9·C,h,w]`: the picture, then the highest bit of each channel, and so on to the lowest.

    Example:
        >>> with_bit_planes(torch.tensor([129 / 255]).view(1, 1, 1, 1)).flatten().tolist()[1:]
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    """
    levels = (image.float() * 255).round().to(torch.int32)
    planes = [(levels >> bit) & 1 for bit in reversed(range(BITS))]
    return torch.cat([image, *(plane.to(image.dtype) for plane in planes)], 1)


def channels_seen(in_channels: int, bit_planes: bool) -> int:
    """Return how many channels a network sees of so many.

    Args:
        in_channels: of the pictures.
        bit_planes: whether their bits are seen too.
    """
    return in_channels * (1 + BITS) if bit_planes else in_channels
