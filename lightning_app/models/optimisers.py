"""What every model gives Lightning: groups of weights, and an optimiser with its schedule over the run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lightning_app.models.schedule import Schedule, lr_factor


def decayed_groups(
    weights: Iterable[nn.Parameter], weight_decay: float, **rates: float
) -> list[dict[str, Any]]:
    """Return weights in two groups of an optimiser: matrices and kernels, which decay, and vectors, which do not.

    Args:
        weights: biases and batch norms are vectors.
        weight_decay: of the others.
        rates: options of both groups, such as `lr`.
    """
    kept = list(weights)
    return [
        {"params": [p for p in kept if p.ndim > 1], "weight_decay": weight_decay, **rates},
        {"params": [p for p in kept if p.ndim <= 1], "weight_decay": 0.0, **rates},
    ]


def scheduled(optimizer: Optimizer, steps: int, schedule: Schedule, warmup: float = 0.0) -> dict[str, Any]:
    """Return what `configure_optimizers` returns: an optimiser whose rates follow a schedule, step by step.

    Args:
        optimizer: with its highest rates.
        steps: of the whole run.
        schedule: see `lr_factor`.
        warmup: likewise.
    """
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, steps, schedule, warmup)
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}
