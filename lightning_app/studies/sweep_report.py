"""What `sweep-levels` shows and leaves: the paper's table with its intervals, the metrics, the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_app.core.csv_text import csv_text
from lightning_app.core.files import write_atomically
from lightning_app.report import png_bytes, print_table, write_metrics
from lightning_app.report.levels import levels_chart
from lightning_app.report.tables import Scalar
from lightning_app.studies.sweep import SweepCell, single_masks

SWEPT_FILES = ("metrics.json", "table.csv", "sweep.png", "config.yaml")  # beside the measurements


@dataclass(frozen=True)
class SweptLevels:
    """What a sweep found.

    Attributes:
        name: of the results' folder.
        summary: the metrics, see `summarise`, with those of masks, pairs and checkpoints.
        models: names of the recognisers; differences are to the first.
        levels: names of the levels, that of clean images first.
    """

    name: str
    summary: dict[str, Scalar]
    models: list[str]
    levels: list[str]

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """Return the columns of the table: whose metrics, and which."""
        parts: dict[str, tuple[str, ...]] = dict.fromkeys(
            self.models, ("accuracy", "std", "accuracy_low", "accuracy_high")
        )
        return parts | {f"delta/{key}": ("accuracy", "std") for key in self.models[1:]}

    def ratio(self, level: str) -> Scalar:
        """Return the mean mask ratio of a level.

        Args:
            level: its name.
        """
        return self.summary.get(f"sweep/masks/{level}/mask_ratio", 0.0)

    def cells(self, level: str) -> list[list[Scalar]]:
        """Return the metrics of a level, a list for each of `parts`.

        Args:
            level: its name.
        """
        return [
            [self.summary.get(f"sweep/{key}/{level}/{figure}") for figure in of]
            for key, of in self.parts.items()
        ]


def write_sweep(run_dir: Path, swept: SweptLevels, found: Sequence[SweepCell]) -> None:
    """Write the table, the picture and the figures.

    Args:
        run_dir: folder of the results.
        swept: what was found.
        found: all measurements.
    """
    heads = ["level", "mask_ratio", *(f"{key} {figure}" for key, of in swept.parts.items() for figure in of)]
    lines = [
        [level, swept.ratio(level), *(value for values in swept.cells(level) for value in values)]
        for level in swept.levels
    ]
    write_atomically(run_dir / "table.csv", csv_text([heads, *lines]))
    write_atomically(run_dir / "sweep.png", _picture(swept, found))
    write_metrics(run_dir / "metrics.json", swept.summary)


def print_sweep(swept: SweptLevels) -> None:
    """Print the table of the paper, and how single masks rank.

    Args:
        swept: what was found.
    """
    summary, models = swept.summary, swept.models
    signs = ["+" if key.startswith("delta/") else "" for key in swept.parts]
    rows = []
    for level in swept.levels:
        texts = [
            _text(values[0], values[1], sign) for values, sign in zip(swept.cells(level), signs, strict=True)
        ]
        rows.append([level, f"{swept.ratio(level):.4f}", *texts])
    title = (
        f"{swept.name}: verification accuracy ± standard deviation over {summary['sweep/repeats']} draws of the masks, "
        f"{summary['sweep/pairs']} pairs"
    )
    print_table(title, rows, ["level", "mask ratio", *models, *(f"δ {key}" for key in models[1:])])
    if "sweep/rank/masks" in summary:
        ranked = [
            [key, *(_interval(summary, f"sweep/rank/{key}/{rho}") for rho in ("rho", "rho_within"))]
            for key in models[1:]
        ]
        print_table(f"{summary['sweep/rank/masks']} single masks, ranked as by {models[0]}: Spearman's rho", ranked,
                    ["recogniser", "all levels", "within levels"])  # fmt: skip


def _picture(swept: SweptLevels, found: Sequence[SweepCell]) -> bytes:
    summary, models = swept.summary, swept.models

    def values(path: str) -> list[float]:
        return [_number(summary.get(path.format(level))) for level in swept.levels]

    ratios = [0.0, *values("sweep/masks/{}/mask_ratio")[1:]]  # nothing is hidden in clean images
    curves = {}
    for key in models:
        accuracy, spread = (values(f"sweep/{key}/{{}}/{figure}") for figure in ("accuracy", "std"))
        curves[key] = list(zip(ratios, accuracy, spread, strict=True))
    single = single_masks(found) if len(models) > 1 else {}
    return png_bytes(
        levels_chart(curves, single, f"± standard deviation over {summary['sweep/repeats']} draws")
    )


def _number(value: Scalar) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _text(mean: Scalar, spread: Scalar, sign: str) -> str:
    several = math.isfinite(_number(spread))
    return f"{_number(mean):{sign}.4f}" + (f" ± {_number(spread):.4f}" if several else "")


def _interval(summary: dict[str, Scalar], key: str) -> str:
    value, low, high = (_number(summary[key + end]) for end in ("", "_low", "_high"))
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
