"""The picture of a sweep over levels of mask ratio: accuracy over the hidden share, and masks one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from lightning_app.report.figures import rendered

Point = tuple[float, float, float]


def levels_chart(
    curves: Mapping[str, Sequence[Point]],
    single: Mapping[tuple[str, str], Mapping[str, float]] | None = None,
    title: str = "",
) -> Image.Image:
    """Draw accuracy over mask ratio and, where masks were measured one by one, who finds which mask hard.

    Args:
        curves: recogniser → (mask ratio, accuracy, standard deviation or nan), shares of 1.
        single: (level, mask) → recogniser → accuracy; the first recogniser's is to the right, the others' up.
        title: a line above the curves.

    Returns:
        An RGB picture.
    """
    figure = Figure(figsize=(12 if single else 6.5, 4.5), dpi=110, layout="constrained")
    left, *right = figure.subplots(1, 2 if single else 1, squeeze=False)[0]
    for name, points in curves.items():
        x, y, spread = zip(*points, strict=True)
        left.errorbar(x, y, [0 if math.isnan(s) else s for s in spread], marker="o", capsize=3, label=name)
    left.axhline(0.5, color="grey", linewidth=0.8, linestyle=":", label="chance")
    left.set_xlabel("mask ratio, mean of the level")
    left.set_ylabel("verification accuracy")
    left.set_title(title, fontsize=10)
    left.legend()
    if single:
        first, *others = curves
        levels = list(dict.fromkeys(level for level, _ in single))
        colours = matplotlib.colormaps["viridis"].resampled(len(levels) + 1)
        for marker, other in zip("o^sDvP*" * len(others), others, strict=False):
            for number, level in enumerate(levels):
                of = [cells for (its, _), cells in single.items() if its == level]
                right[0].scatter(
                    [cells[first] for cells in of], [cells[other] for cells in of], s=18, marker=marker,
                    color=colours(number), label=f"{other}, {level}",
                )  # fmt: skip
        right[0].set_xlabel(f"accuracy of {first}")
        right[0].set_ylabel(f"accuracy of {', '.join(others)}")
        right[0].set_title("each mask on all images", fontsize=10)
        right[0].legend(fontsize=8)
    return rendered(figure)
