"""The draws of a mix, whole batches at once on their device, as functions of (keys, index) alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_app.core.draws import as_uniform, secret

Keys = Sequence[int]  # four secret integers, see `draws.secret`
_CANDIDATES = (
    32  # rows drawn per image; of three and more coefficients under a cap of 0.55 more than half pass
)


def partners(index: Tensor, k: int, keys: Keys) -> Tensor:
    """Draw with whom each image of a batch is mixed: every image is in k mixes, and never twice in one.

    The images are put into a ring by a keyed permutation; the partners are those at k−1 different distances, drawn
    once for the batch. It depends on which images are in the batch, not on their order.

    Args:
        index: `[B]` int64 numbers of different images, B ≥ k.
        k: images in a mix.
        keys: of this draw.

    Returns:
        `[B,k]` int64 positions in the batch, the image's own first.
    """
    count, device = len(index), index.device
    own = secret(index, keys)
    batch = own.sum()  # which images are there, in any order
    ring = secret(own + batch, keys).argsort()  # [B] positions in the batch, in the ring's order
    place = torch.empty_like(ring)
    place[ring] = torch.arange(count, device=device)
    away = 1 + secret(batch + torch.arange(1, count, device=device), keys).argsort()[: k - 1]
    others = ring[(place[:, None] + away) % count]
    return torch.cat([torch.arange(count, device=device)[:, None], others], 1)


def mix_weights(index: Tensor, k: int, cap: float, keys: Keys) -> Tensor:
    """Draw the coefficients of each image's mix: half-normals, summing to one, none above the cap.

    Of two, the direction of (|N|, |N|) is uniform on a quarter of a circle, so that what passes the cap is drawn
    directly. Of more, the first of 32 rows that passes is taken. Where none does (a cap close to 1/k), the first is
    drawn towards equal parts until its largest is the cap.

    Args:
        index: `[B]` int64.
        k: images in a mix.
        cap: the largest coefficient, above 1/k.
        keys: of this draw.

    Returns:
        `[B,k]` float32, rows sum to 1 within rounding.
    """
    most = _at_most(cap)
    own = secret(index, keys)
    if k == 2:
        low = math.atan2(1 - most, most)
        angle = low + as_uniform(secret(own, keys)) * (math.pi / 2 - 2 * low)
        first = (angle.sin() / (angle.sin() + angle.cos())).clamp(1 - most, most)
        return torch.stack([first, 1 - first], 1)
    counter = own[:, None] + torch.arange(_CANDIDATES * k, device=index.device)
    half = torch.erfinv(as_uniform(secret(counter, keys))).view(-1, _CANDIDATES, k)  # of |N(0,1)|, scaled
    rows = half / half.sum(2, keepdim=True).clamp(min=1e-12)
    first_passing = (rows.amax(2) <= most).int().argmax(1)  # of none, row 0
    row = rows.gather(1, first_passing.view(-1, 1, 1).expand(-1, 1, k)).squeeze(1)
    largest = row.amax(1, keepdim=True)
    share = (most - 1 / k) / (largest - 1 / k).clamp(min=1e-12)
    drawn = 1 / k + (row - 1 / k) * share
    return torch.where(largest > most, drawn, row).clamp(max=most)


def _at_most(cap: float) -> float:
    """Round to a float32 that is not above."""
    near = torch.tensor(cap, dtype=torch.float32)
    return float(near if float(near) <= cap else torch.nextafter(near, torch.tensor(0.0)))


def random_signs(index: Tensor, shape: Sequence[int], keys: Keys) -> Tensor:
    """Draw a sign per value of each image, 64 of a hash.

    Args:
        index: `[B]` int64.
        shape: of an image, (C, H, W).
        keys: of this draw.

    Returns:
        `[B,C,H,W]` int8, −1 or 1.
    """
    count = math.prod(shape)
    own = secret(index, keys)
    hashes = secret(own[:, None] + torch.arange(-(-count // 64), device=index.device), keys)
    bits = hashes.view(torch.uint8)[..., None] >> torch.arange(8, dtype=torch.uint8, device=index.device) & 1
    signs = bits.view(len(index), -1)[:, :count].to(torch.int8).mul_(2).sub_(1)
    return signs.reshape(len(index), *shape)


def mix(values: Tensor, which: Tensor, weight: Tensor) -> Tensor:
    """Mix images: Σ_j weight[:, j] · values[which[:, j]].

    Args:
        values: `[B,C,H,W]` float.
        which: `[B,k]` int64 positions in the batch, an image's own first.
        weight: `[B,k]` float, k ≥ 2.

    Returns:
        The shape and dtype of `values`.
    """
    shares = weight.to(values.dtype)[..., None, None, None].unbind(1)
    out = values[which[:, 1]].mul_(shares[1]).addcmul_(values, shares[0])  # its own lies where it has to be
    for j in range(2, which.shape[1]):
        out.addcmul_(values[which[:, j]], shares[j])
    return out
