"""The learning rate as a function of the share of the run that is done."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["step", "one_cycle", "cosine", "constant"]


def check_rates(**rates: float) -> None:
    """Check what an optimiser takes: torch does not where a group of weights has its own.

    Args:
        rates: learning rates, momentum and weight decay, by the names of the model's arguments.

    Raises:
        ValueError: one is negative or not finite.
    """
    for name, rate in rates.items():
        if not 0 <= rate < math.inf:
            raise ValueError(f"model.{name}={rate}: give a number of 0 or more")


def check_shares(**shares: float) -> None:
    """Check shares, by the names of the model's arguments.

    Raises:
        ValueError: one is not within 0 … 1.
    """
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"model.{name}={share}: give a share, 0 … 1")


def lr_factor(
    step: int, total: int, schedule: Schedule = "step", warmup: float = 0.0, final: float = 1e-3
) -> float:
    """Return what the base learning rate is multiplied with at a step.

    Args:
        step: number of the optimiser step, from 0.
        total: optimiser steps of the whole run.
        schedule: `step` divides by 10 at 50, 70 and 90 % of all steps (paper, 4.1); `one_cycle` rises as a
            half cosine over `warmup` (0.25 where that is 0) and falls as a half cosine to `final`; `cosine`
            falls alone; `constant` stays.
        warmup: share of the run, 0 … 1, over which the rate rises linearly from 0 (`one_cycle`: as a cosine).
        final: factor at the end of `one_cycle` and `cosine`.

    Returns:
        The factor, in (0, 1].
    """
    done = min(step, total) / max(total, 1)
    if schedule == "one_cycle":
        rise = warmup or 0.25
        if done < rise:
            return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * done / rise))
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (done - rise) / max(1 - rise, 1e-9)))
    if warmup > 0 and done < warmup:
        return (step + 1) / (warmup * total + 1)
    if schedule == "cosine":
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1 - warmup, 1e-9)))
    if schedule == "step":
        return 0.1 ** sum(done >= edge for edge in (0.5, 0.7, 0.9))
    return 1.0
