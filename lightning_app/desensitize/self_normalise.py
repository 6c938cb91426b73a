"""Channels of mean 0 and deviation 1, and sums of two such channels, shuffled; in place, in what a cache holds."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

NOTHING = 1e-6  # deviation of a channel, of pixels in [0,1], that is a rounding error: it carries nothing
_CANCELLED = 1e-5  # variance of a sum of two normalised channels that is one


def self_normalise(channels: Tensor) -> Tensor:
    """Bring each channel of each image to mean 0 and deviation 1 (of its values, not of a sample), in place.

    A channel that carries nothing, such as any of a black image, becomes zeros.

    Args:
        channels: `[B,C,h,w]` float32, contiguous; changed.

    Returns:
        The same tensor.
    """
    flat = channels.flatten(2)
    return flat.mul_(_centred(flat)[..., None]).view(channels.shape)


def shuffled(channels: Tensor, first: Tensor, second: Tensor, mix: bool, out: Tensor) -> None:
    """Shuffle, self-normalise, mix neighbours, shuffle, self-normalise (PPFR-FD).

    With n the normalised channels in their first order, channel i of the mix is `(n[i] + n[i+1]) / √2`, the last one's
    neighbour being the first. Two neighbours that cancel leave zeros.

    Args:
        channels: `[B,C,h,w]` float32, contiguous; changed.
        first: `[B,C]` int64, the channel that comes to each place at first.
        second: `[B,C]` int64, likewise of the second shuffle.
        mix: whether neighbours are mixed; without, both shuffles are one.
        out: `[B,C,h,w]` float32, written.
    """
    flat, found = channels.flatten(2), out.flatten(2)
    batch, count, values = flat.shape
    scale = _centred(flat)
    parts = [first.gather(1, second)]  # [B,C] each, the channels that each place is the sum of
    if mix:
        parts.append(first.roll(-1, 1).gather(1, second))
    rows = torch.arange(batch, device=flat.device)[:, None] * count
    # gathers, scales and adds in one pass, in fp32 under autocast too
    sums = F.embedding_bag(
        torch.stack([rows + part for part in parts], -1).flatten(0, 1), flat.flatten(0, 1), mode="sum",
        per_sample_weights=torch.stack([scale.gather(1, part) for part in parts], -1).flatten(0, 1),
    ).view_as(flat)  # fmt: skip
    if not mix:
        found.copy_(sums)
        return
    # the √2 that the mix is divided by falls out; of a sum's parts the means are 0, and so is its own
    deviation = torch.linalg.vector_norm(sums, dim=-1) / math.sqrt(values)
    torch.mul(
        sums, torch.where(deviation.square() / 2 > _CANCELLED, 1 / deviation, 0.0)[..., None], out=found
    )


def _centred(flat: Tensor) -> Tensor:
    """Subtract each channel's mean, in place, and return 1 / deviation, `[B,C]`; 0 where a channel carries nothing."""
    flat.sub_(flat.mean(-1, keepdim=True))
    deviation = torch.linalg.vector_norm(flat, dim=-1) / math.sqrt(flat.shape[-1])
    return torch.where(deviation > NOTHING, 1 / deviation, 0.0)
