"""How far a judge can be trusted: what it cannot tell apart on clean faces says nothing about a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lightning_app.report.columns import find_metric

WEAK = 0.95  # accuracy on clean pairs below which a judge is weak
CHANCE = 0.5  # of pairs, half of which are the same person
_NEAR = 0.1  # above chance


@dataclass(frozen=True)
class Clean:
    """How well a judge tells clean faces apart.

    Attributes:
        value: accuracy on clean pairs, a share.
        low: lower end of its 95 % interval; the value where there is none.
        high: upper end.
    """

    value: float
    low: float
    high: float


def standing(clean: Clean | None) -> str:
    """Return in a word what a judge is worth: `near chance`, `weak`, or nothing.

    Args:
        clean: how well it tells clean faces apart; None where that is not known.

    Example:
        >>> standing(Clean(0.55, 0.48, 0.62)), standing(Clean(0.83, 0.8, 0.86)), standing(Clean(0.98, 0.97, 0.99))
        ('near chance', 'weak', '')
    """
    if clean is None:
        return ""
    if clean.low <= CHANCE or clean.value < CHANCE + _NEAR:
        return "near chance"
    return "weak" if clean.value < WEAK else ""


def clean_of(found: Mapping[str, float], judges: Mapping[str, str]) -> dict[str, Clean]:
    """Read how well judges tell clean faces apart.

    Args:
        found: metrics, `judge_accuracy/JUDGE` among them.
        judges: label -> what it is.

    Returns:
        Label -> accuracy; judges that were not asked are left out.
    """
    out = {}
    for label in judges:
        one = find_metric(found, "judge_accuracy", label)
        if one is not None:
            out[label] = Clean(one.value, *one.interval)
    return out
