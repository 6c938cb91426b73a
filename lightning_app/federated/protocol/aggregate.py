"""What the server makes of its clients' updates: which it takes, their mean (FedAvg), how far each went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lightning_app.federated.protocol.messages import Update, Weights
from lightning_app.federated.protocol.weights import is_statistic, not_finite, unlike

_BOUNDS = {
    "images": (1, 10**12), "batches": (1, 10**9), "loss": (-1e6, 1e6), "lr": (0, 1e3), "seconds": (0, 1e8),
}  # fmt: skip


@dataclass(frozen=True)
class Drift:
    """How far a client's training went from the global weights; parameters alone, no batch-norm statistics.

    Attributes:
        norm: of its update, that is of its parameters minus the global ones.
        norm_with_statistics: the same with batch-norm statistics, what `max_update_norm` bounds.
        cosine: of the angle between its update and the mean of all updates; 0 where either is nil.
    """

    norm: float
    norm_with_statistics: float
    cosine: float


def refusal(
    update: Update,
    reference: Weights,
    round: int,
    mask_hash: str,
    images: int | None = None,
    max_norm: float | None = None,
) -> str | None:
    """Return why an update is not taken; None where it is.

    Args:
        update: of a client.
        reference: the global weights it started from.
        round: the number of the round that is on.
        mask_hash: of the federation's mask.
        images: the most it can have seen, its own times the round's epochs (an incomplete last batch is dropped, and
            none is filled up); None where that is not known.
        max_norm: of the update, see `Plan`; None takes any.
    """
    if update.round != round:
        return f"a stale update: of round {update.round}, this is round {round}"
    if update.mask_hash != mask_hash:
        return f"another mask: its hash is {update.mask_hash[:12]}…, the federation's {mask_hash[:12]}…"
    for key, (low, high) in _BOUNDS.items():
        value = float(getattr(update, key))
        # a model that logs no learning rate says NaN
        if not low <= value <= high and not (key == "lr" and math.isnan(value)):
            return f"{key}={value:g} is not within {low:g} to {high:g}"
    if images is not None and update.images > images:
        return f"it says it saw {update.images} images: it joined with {images} for a round"
    if update.batches > update.images:
        return f"it says it saw {update.batches} batches of {update.images} images"
    wrong = unlike(update.weights, reference) or not_finite(update.weights)
    if wrong is not None:
        return wrong
    if max_norm is not None:
        squares = (_went(there, reference[name]) for name, there in update.weights.items())
        norm = math.sqrt(sum(float(went @ went) for went in squares))
        if norm > max_norm:
            return f"its update has the norm {norm:.4g}, above max_update_norm={max_norm:g}"
    return None


def _went(there: Tensor, start: Tensor) -> Tensor:
    """Subtract in float64: of two finite float32 numbers the difference may be infinite."""
    return (there.double() - start.double()).flatten()


def aggregate(updates: Sequence[Update]) -> Weights:
    """Average the clients' weights, by number of images (FedAvg).

    `w = Σ nᵢ·wᵢ / Σ nᵢ` over parameters and batch-norm statistics alike, summed in float64 in the order of the
    clients' numbers, then rounded to the weights' own type: it does not depend on the order of answers, and of one
    client it is that client's weights, bit for bit. A variance below 0, which a privacy mod's noise can make, becomes
    0.

    Args:
        updates: at least one, each of another client, all checked by `refusal`.

    Returns:
        Name → tensor.

    Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS
    2017, algorithm 1.
    """
    ordered = sorted(updates, key=lambda update: update.client)
    images = sum(update.images for update in ordered)
    mean = {}
    for name, first in ordered[0].weights.items():
        total = first.double() * ordered[0].images
        for update in ordered[1:]:
            total += update.weights[name].double() * update.images
        mean[name] = (total / images).to(first.dtype)
        if name.endswith(".running_var"):
            mean[name].clamp_(min=0)
    return mean


def drifts(reference: Weights, updates: Sequence[Update], mean: Weights) -> dict[int, Drift]:
    """Measure how far each client went, and whether it went where the others did.

    Args:
        reference: the global weights that all started from.
        updates: of the clients.
        mean: what `aggregate` made of them.

    Returns:
        Client's number → drift.
    """
    ordered = sorted(updates, key=lambda update: update.client)
    own, whole, both = ([0.0] * len(ordered) for _ in range(3))  # squared lengths and products
    common = 0.0
    for name, start in reference.items():
        there = _went(mean[name], start)
        common += 0.0 if is_statistic(name) else float(there @ there)
        for number, update in enumerate(ordered):
            went = _went(update.weights[name], start)
            square = float(went @ went)
            whole[number] += square
            if is_statistic(name):
                continue
            own[number] += square
            both[number] += float(went @ there)
    return {
        update.client: Drift(
            math.sqrt(mine),
            math.sqrt(all_in),
            product / (math.sqrt(mine) * math.sqrt(common)) if mine > 0 and common > 0 else 0.0,
        )
        for update, mine, all_in, product in zip(ordered, own, whole, both, strict=True)
    }
