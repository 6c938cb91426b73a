"""The second paper's indicators S1 … S5 of every method of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from lightning_app.metrics.scores import (
    Indicators,
    accuracy_indicator,
    accuracy_part,
    privacy_indicator,
    scores,
)
from lightning_app.report.columns import find_metric
from lightning_app.report.score_table import Scored

Figures = Mapping[str, float]


def indicators(
    results: Mapping[str, Figures], attacks: Sequence[str], judge: str, clean: str
) -> dict[str, tuple[Indicators, str]]:
    """Take every method's indicators out of what was measured.

    S3 and S4 are of the attack that leaves a method least private by formula 9, among those that were mounted on it.

    Args:
        results: method -> figures; those of an attack under `ATTACK/`.
        attacks: labels.
        judge: whose embeddings S2 and S4 compare, by cosine.
        clean: the method that hides nothing: S5 is measured against it, and it is no row.

    Returns:
        Method -> indicators, and the attack of S3 and S4; methods of which one was not measured are left out.
    """
    best = find_metric(results.get(clean, {}), "accuracy")
    found: dict[str, tuple[Indicators, str]] = {}
    for label, figures in results.items():
        accuracy, seen = find_metric(figures, "accuracy"), _pair(figures, judge)
        if label == clean or best is None or not best.value or accuracy is None or seen is None:
            continue
        share = accuracy_indicator(accuracy.value, best.value)
        each = {attack: pair for attack in attacks if (pair := _pair(figures, judge, attack)) is not None}
        made = {attack: Indicators(*seen, *pair, share) for attack, pair in each.items()}
        if made:
            least = min(made, key=lambda attack: privacy_indicator(made[attack]))
            found[label] = made[least], least
    return found


def flat(found: Mapping[str, tuple[Indicators, str]]) -> dict[str, float | str]:
    """Return indicators as `metrics.json` has them: raw, since scores move with the rows of the table.

    Args:
        found: of `indicators`.
    """
    out: dict[str, float | str] = {}
    for label, (one, attack) in found.items():
        out |= {f"compare/{label}/indicator/{key}": value for key, value in asdict(one).items()}
        out[f"compare/{label}/indicator/attack"] = attack
    return out


def scored(found: Mapping[str, tuple[Indicators, str]], judge: str, clean: str) -> Scored:
    """Make what tables show of indicators: raw, and as scores over these very methods.

    Args:
        found: of `indicators`.
        judge: as there.
        clean: as there.
    """
    raw: dict[str, dict[str, float | str]] = {}
    for label, (one, attack) in found.items():
        parts = {"privacy": privacy_indicator(one), "accuracy": accuracy_part(one)}
        raw[label] = {**asdict(one), "attack": attack, **parts}
    made = scores({label: one for label, (one, _) in found.items()})
    return Scored(raw, {label: [*asdict(one).values()] for label, one in made.items()}, judge, clean)


def _pair(figures: Figures, judge: str, attack: str = "") -> tuple[float, float] | None:
    """Return LPIPS and 1 − cosine of what is seen; None where one was not measured."""
    seen = {"attack": attack} if attack else {}
    perceptual, alike = (
        find_metric(figures, "lpips", **seen),
        find_metric(figures, "similarity", judge, **seen),
    )
    return None if perceptual is None or alike is None else (perceptual.value, 1 - alike.value)
