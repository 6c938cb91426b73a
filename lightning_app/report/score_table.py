"""The table of the second paper's scores: raw indicators, and what normalising over its very rows makes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lightning_app.report.page_tables import PageCell

INDICATORS = ("s1", "s2", "s3", "s4", "s5")
SCORES = ("privacy", "accuracy", "product (text)", "mean (Table 2)")


@dataclass(frozen=True)
class Scored:
    """The indicators of a comparison's methods, and their scores beside each other.

    Attributes:
        raw: method -> `s1` … `s5`, `attack` (of S3 and S4), `open` (why an attack may see more, or that one failed),
            and what is normalised into the scores: `privacy` (formula 9) and `accuracy` (formula 10). NaN where an
            attack failed. Without the clean method, and without those of which one was not measured.
        scores: method -> the four of `SCORES`, normalised over all methods; NaN likewise.
        judge: whose embeddings S2 and S4 compare.
        clean: the method that hides nothing, whose accuracy S5 is a share of.
    """

    raw: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    judge: str = ""
    clean: str = ""

    def plain(self) -> dict[str, dict[str, float | str | None]]:
        """Return `raw` as JSON has it: None where something was not measured."""
        return {
            label: {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in raw.items()}
            for label, raw in self.raw.items()
        }

    def table(self) -> tuple[list[str], list[list[PageCell]]]:
        """Make the table, normalised over all its rows.

        Returns:
            Heads and rows.
        """
        heads = ["method", *(name.upper() for name in INDICATORS), "of S3, S4", *SCORES]
        rows = []
        for label, raw in self.raw.items():
            measured, made = [float(raw[name]) for name in INDICATORS], self.scores[label]
            numbers = [_cell(value) for value in (*measured, *made)]
            attack, reason = str(raw["attack"]), str(raw["open"])
            reason = f"at most, {reason}" if attack and reason else reason
            numbers.insert(len(INDICATORS), PageCell(attack or "–", reason, attack))
            rows.append([PageCell(label, order=label), *numbers])
        return heads, rows


def _cell(value: float) -> PageCell:
    return PageCell("–") if math.isnan(value) else PageCell(f"{value:.3f}", order=value)
