"""Laplace noise as a function of (keys, image): whole numbers of steps on a grid, whole batches at once.

Noise that is added to floats can give values away: which floats a sum can be depends on what was added to (Mironov,
"On significance of the least significant bits for differential privacy", CCS 2012). So a value is rounded to a grid
first, and the noise is a whole number of the grid's steps: whatever the value, the same sums can come out. Noise of a
scale s, rounded to whole numbers, added to a whole number is Laplace noise added and then rounded, so that the promise
of the mechanism holds. A size is −s·ln(u) of a uniform u of 31 bits; where u is small, and steps of 31 bits would leave
holes, of 94. So sizes end at 65 s.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_app.core import draws

PER_SCALE = 1 << 10  # steps of the grid in the scale of the noise, of a value that has no grid of its own
_LEVELS = 255_000  # of an image's values in a unit: 299 R + 587 G + 114 B of whole R, G, B is whole
_CACHED = 1 << 16  # hashes at a time on a CPU, of two draws each: what its cache holds
_AT_ONCE = 1 << 25  # elsewhere
_FEW = 1 << 12  # of 2^31: a uniform below gets 63 bits more
_FURTHER = -1  # of a hash whose second hash is meant


def image_hash(image: Tensor, keys: Sequence[int]) -> Tensor:
    """Hash what images show: equal images have equal hashes, and no two others that anybody would meet.

    Noise is drawn by this and not by an image's number: two images that share a number (of training and of
    verification, or one image and its mirror image) would share their noise, and their difference would have none.

    Devices divide pixels by 255 with other last bits, which do not count: values are taken as whole numbers of 255,000
    a unit, which pixels and their luma are.

    Args:
        image: `[B,C,H,W]` float32, in [0,1] or not much more.
        keys: four secret integers, see `draws.secret`.

    Returns:
        `[B]` int64.

    Source: Carter and Wegman, "Universal classes of hash functions", 1979: Σ level·key, modulo 2⁶⁴.
    """
    levels = (image.float() * _LEVELS).round_().flatten(1).to(torch.int64)
    weights = draws.secret(torch.arange(levels.shape[1], device=levels.device), keys) | 1
    return draws.secret(levels.mul_(weights).sum(1), keys)


def laplace_steps(image: Tensor, places: Tensor, scale: float, keys: Sequence[int]) -> Tensor:
    """Draw noise: whole numbers, Laplace of that scale, rounded.

    Args:
        image: `[B]` int64, see `image_hash`.
        places: `[n]` int64, distinct, see `hashed_places`.
        scale: in steps, at most 10⁵: of larger ones fp32 would leave some out.
        keys: four secret integers.

    Returns:
        `[B,2n]` float32, whole numbers, two for each place.
    """
    hashes = draws.secret(image[:, None] ^ places, keys)
    bits = hashes.view(torch.int32)  # [B,2n]: the sign, and 31 bits of the size
    size = bits & 0x7FFFFFFF
    uniform = size.float().add_(0.5).mul_(2.0**-31)
    rare = torch.nonzero(size < _FEW)
    if len(rare):
        row, column = rare.unbind(1)
        own = hashes[row, column // 2] ^ _FURTHER
        further = draws.secret(own + column % 2, keys) >> 1 & (2**63 - 1)
        whole = size[row, column].double() + (further.double() + 0.5) * 2.0**-63
        uniform[row, column] = (whole * 2.0**-31).float()
    return uniform.log_().mul_(-scale).round_().copysign_(bits)


def hashed_places(count: int, keys: Sequence[int], device: torch.device) -> Tensor:
    """Number places, hashed: two images have no draws in common but one here and there, by chance.

    Args:
        count: of them.
        keys: four secret integers.
        device: where to.

    Returns:
        `[count]` int64, distinct.
    """
    return draws.secret(torch.arange(count, device=device), keys)


def add_laplace(
    values: Tensor, scale: float, image: Tensor, keys: Sequence[int], places: Sequence[int]
) -> Tensor:
    """Add noise to whole numbers, in place.

    Args:
        values: `[B,n]` float32, whole numbers; changed.
        scale: of the noise, in steps.
        image: `[B]` int64, see `image_hash`.
        keys: four secret integers: of the noise.
        places: four others: of the places.

    Returns:
        The same tensor.
    """
    most = _CACHED if values.device.type == "cpu" else _AT_ONCE
    where = hashed_places(-(-values.shape[1] // 2), places, values.device)
    rows = max(1, most // max(1, len(where)))
    for part, own in zip(values.split(rows), image.split(rows), strict=True):
        for first in range(0, len(where), most):
            here = part[:, 2 * first : 2 * (first + most)]
            here += laplace_steps(own, where[first : first + most], scale, keys)[:, : here.shape[1]]
    return values
