"""Masks that a masker may make of an image on another machine: pixels whose scores are equal but for rounding."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, islice

import torch
from torch import Tensor

from lightning_app.masks.learned import Growth, Network, core_mask, masker_input

# of how far an image's scores lie apart (the median distance from their median, which a common offset leaves as it
# is): what lies so near to the threshold may fall on either side. oneDNN's and PyTorch's own convolutions differ by
# 1.3e-4 of it at most for an untrained masker on 200 faces of LFW-a, by 2.3e-5 for a trained one on 200 of FER3
# (benchmarks/near_ties.py)
SLACK = 5e-4
# pixels that are taken in place of likelier ones, in all rounds together: more than one in 500 (and than 4) are no
# accident of rounding, and of enough near ties a planted masker could let any mask be made
_SWAPPED, _FEWEST_SWAPPED = 500, 4
_PASSES = 64  # through the network, for one image
_CHOICES = 8  # of one round
Rounds = list[tuple[Tensor, Tensor]]


def spread(scores: Tensor) -> Tensor:
    """Return how far the scores of each image lie apart: the median distance from their median.

    Args:
        scores: `[B,…]`, finite.

    Returns:
        `[B]`.
    """
    flat = scores.flatten(1)
    return (flat - flat.median(1, keepdim=True).values).abs().median(1).values


@torch.no_grad()
def runs(
    network: Network, image: Tensor, shown: int, growth: Growth, within: Tensor | None = None
) -> Iterator[tuple[Tensor, Rounds]]:
    """Yield the masks that `grown` may make of one image, were the scores rounded otherwise; the likeliest first.

    One pixel that falls on the other side in an early round changes all that follow, so every round's near ties are
    tried both ways, up to a number of passes, and of pixels that take the places of likelier ones.

    Args:
        network: see `grown`.
        image: `[1,3,H,W]` in [0,1].
        shown: pixels shown at the end.
        growth: rounds and core.
        within: `[1,1,H,W]`, 1 where a mask may show anything; by default anywhere.

    Yields:
        What `grown` returns.
    """
    counts = growth.counts(shown)
    size = (int(image.shape[-2]), int(image.shape[-1]))
    start = core_mask(counts[0], size, image.device)
    if within is not None and bool((start > within).any()):
        return
    most = max(size[0] * size[1] // _SWAPPED, _FEWEST_SWAPPED)
    left, waiting = _PASSES, [(start, Rounds(), most)]
    while waiting:
        mask, rounds, swaps = waiting.pop()
        if len(rounds) == len(counts) - 1:
            yield mask, rounds
        elif left:
            left -= 1
            logits = network(masker_input(image, mask if growth.rounds else None))
            count = counts[len(rounds) + 1] - counts[len(rounds)]
            steps = [
                (mask + added, [*rounds, (logits, added)], swaps - swapped)
                for added, swapped in _choices(logits, mask, count, within)
                if swapped <= swaps
            ]
            waiting += reversed(steps)


def _choices(logits: Tensor, mask: Tensor, count: int, within: Tensor | None) -> Iterator[tuple[Tensor, int]]:
    """Yield what may be added to a mask: pixels above the threshold, and of those at it as many as are left.

    Beside each stands how many of its pixels are not among the highest, whose places they take.
    """
    if count == 0:
        yield torch.zeros_like(mask), 0
        return
    lowest = torch.finfo(torch.float32).min
    values = torch.nan_to_num(logits.float(), nan=lowest, neginf=lowest).flatten()
    slack = SLACK * float(spread(values[None]))
    free = mask.flatten() == 0
    order = values.masked_fill(~free, -torch.inf).argsort(descending=True, stable=True)
    threshold = values[order[count - 1]]
    likeliest = torch.zeros_like(free)
    likeliest[order[:count]] = True
    sure = free & (values > threshold + slack)
    allowed = torch.ones_like(free) if within is None else within.flatten() == 1
    if bool((sure & ~allowed).any()):
        return
    at = free & ~sure & allowed & (values >= threshold - slack)
    pool = order[at[order]].tolist()
    for chosen in islice(combinations(pool, count - int(sure.sum())), _CHOICES):
        added = sure.clone()
        added[list(chosen)] = True
        yield added.view(mask.shape).float(), int((added & ~likeliest).sum())
