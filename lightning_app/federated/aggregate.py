"""What the server makes of its clients' updates: which it takes, their mean, how far each went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lightning_app.federated.messages import Update, Weights
from lightning_app.federated.weights import is_statistic, unlike


@dataclass(frozen=True)
class Drift:
    """How far a client's training went from the global weights; parameters alone, no batch-norm statistics.

    Attributes:
        norm: of its update, that is of its parameters minus the global ones.
        cosine: of the angle between its update and the mean of all updates; 0 where either is nil.
    """

    norm: float
    cosine: float


def refusal(update: Update, reference: Weights, round: int, mask_hash: str) -> str | None:
    """Say why an update is not taken; None where it is.

    Args:
        update: of a client.
        reference: the global weights it started from.
        round: the number of the round that is on.
        mask_hash: of the federation's mask.
    """
    if update.round != round:
        return f"a stale update: of round {update.round}, this is round {round}"
    if update.mask_hash != mask_hash:
        return f"another mask: its hash is {update.mask_hash[:12]}…, the federation's {mask_hash[:12]}…"
    if update.images < 1:
        return f"it saw {update.images} images"
    wrong = unlike(update.weights, reference)
    if wrong is not None:
        return wrong
    for name, value in update.weights.items():
        if not bool(torch.isfinite(value).all()):
            return f"{int((~torch.isfinite(value)).sum())} values of {name} are NaN or infinite"
    return None


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
    own, both, common = [0.0] * len(ordered), [0.0] * len(ordered), 0.0  # squared lengths and products
    for name in reference:
        if is_statistic(name):
            continue
        there = (mean[name] - reference[name]).double().flatten()
        common += float(there @ there)
        for number, update in enumerate(ordered):
            went = (update.weights[name] - reference[name]).double().flatten()
            own[number] += float(went @ went)
            both[number] += float(went @ there)
    return {
        update.client: Drift(
            math.sqrt(mine), product / math.sqrt(mine * common) if mine * common > 0 else 0.0
        )
        for update, mine, product in zip(ordered, own, both, strict=True)
    }
