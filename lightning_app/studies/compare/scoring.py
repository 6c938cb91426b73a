"""The second paper's indicators S1 … S5 of every method of a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

from lightning_app.metrics.scores import (
    Indicators,
    accuracy_indicator,
    accuracy_part,
    privacy_indicator,
    scores,
)
from lightning_app.report.columns import find_metric
from lightning_app.report.score_table import Scored

Metrics = Mapping[str, float]


class Indicated(NamedTuple):
    """The indicators of one method.

    Attributes:
        of: S1 … S5; S3 and S4 are NaN where an attack failed: nobody knows how strong it would have been.
        attack: of S3 and S4; empty there.
        open: why an attack may see more than S3 and S4 say, or why there are none; empty where all is measured.
    """

    of: Indicators
    attack: str
    open: str = ""


def indicators(
    results: Mapping[str, Metrics], attacks: Sequence[str], judge: str, clean: str,
    left_open: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Indicated]:  # fmt: skip
    """Take every method's indicators out of what was measured.

    S3 and S4 are of the attack that leaves a method least private by formula 9, among those that were mounted on it.

    Args:
        results: method -> metrics; those of an attack under `ATTACK/`.
        attacks: labels.
        judge: whose embeddings S2 and S4 compare, by cosine.
        clean: the method that hides nothing: S5 is measured against it, and it is no row.
        left_open: method -> attack -> why there is no metric of it, or why it says 'at least'.

    Returns:
        Method -> indicators; methods of which one was not measured are left out, but for those whose attack failed.
    """
    best = find_metric(results.get(clean, {}), "accuracy")
    found: dict[str, Indicated] = {}
    for label, metrics in results.items():
        accuracy, seen = find_metric(metrics, "accuracy"), _pair(metrics, judge)
        if label == clean or best is None or not best.value or accuracy is None or seen is None:
            continue
        share = accuracy_indicator(accuracy.value, best.value)
        each = {attack: pair for attack in attacks if (pair := _pair(metrics, judge, attack)) is not None}
        made = {attack: Indicators(*seen, *pair, share) for attack, pair in each.items()}
        why = {attack: said for attack, said in (left_open or {}).get(label, {}).items() if attack in attacks}
        open_attacks = "; ".join(f"{attack}: {said}" for attack, said in why.items())
        if any(attack not in each for attack in why):
            found[label] = Indicated(Indicators(*seen, math.nan, math.nan, share), "", open_attacks)
        elif made:
            least = min(made, key=lambda attack: privacy_indicator(made[attack]))
            found[label] = Indicated(made[least], least, open_attacks)
    return found


def flat(found: Mapping[str, Indicated]) -> dict[str, float | str]:
    """Return indicators as `metrics.json` has them: raw, since scores move with the rows of the table.

    Args:
        found: of `indicators`.
    """
    out: dict[str, float | str] = {}
    for label, one in found.items():
        known = {key: value for key, value in asdict(one.of).items() if not math.isnan(value)}
        named = {key: value for key, value in (("attack", one.attack), ("open", one.open)) if value}
        out |= {f"compare/{label}/indicator/{key}": value for key, value in (known | named).items()}
    return out


def scored(found: Mapping[str, Indicated], judge: str, clean: str) -> Scored:
    """Make what tables show of indicators: raw, and as scores over these very methods.

    Args:
        found: of `indicators`.
        judge: as there.
        clean: as there.
    """
    raw: dict[str, dict[str, float | str]] = {}
    for label, (one, attack, open_attacks) in found.items():
        parts = {"privacy": privacy_indicator(one), "accuracy": accuracy_part(one)}
        raw[label] = {**asdict(one), "attack": attack, "open": open_attacks, **parts}
    made = scores({label: one.of for label, one in found.items()})
    return Scored(raw, {label: [*asdict(one).values()] for label, one in made.items()}, judge, clean)


def _pair(metrics: Metrics, judge: str, attack: str = "") -> tuple[float, float] | None:
    """Return LPIPS and 1 − cosine of what is seen; None where one was not measured."""
    seen = {"attack": attack} if attack else {}
    perceptual, alike = (
        find_metric(metrics, "lpips", **seen),
        find_metric(metrics, "similarity", judge, **seen),
    )
    return None if perceptual is None or alike is None else (perceptual.value, 1 - alike.value)
