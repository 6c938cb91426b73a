"""The picture of an ablation: one point with an error bar per variant and system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

from matplotlib.figure import Figure
from PIL import Image

from lightning_app.report.figures import rendered

_LETTERS = 14


def ablation_chart(
    points: Mapping[str, Mapping[str, tuple[float, ...]]], variants: Sequence[str], title: str = ""
) -> Image.Image:
    """Draw verification accuracy over the variants.

    Args:
        points: system → variant → (mean, how far its error bar goes down, and up), shares of 1: standard deviation
            over seeds, or the 95 % interval of a single run. Of two numbers the second counts for both.
        variants: their order from left to right; those without a point stay empty.
        title: a line above everything.

    Returns:
        An RGB picture.
    """
    figure = Figure(figsize=(max(5.0, 1.1 * len(variants) + 2), 3.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    width = 0.5 / max(1, len(points))
    for number, (system, found) in enumerate(points.items()):
        here = [variant for variant in variants if variant in found]
        if not here:
            continue
        shift = (number - (len(points) - 1) / 2) * width
        at = [variants.index(variant) + shift for variant in here]
        axes.errorbar(
            at,
            [100 * found[v][0] for v in here],
            [[100 * found[v][1] for v in here], [100 * found[v][-1] for v in here]],
            fmt="o",
            capsize=3,
            label=system,
        )
    # as many letters a line as a tick has room for
    axes.set_xticks(range(len(variants)), [fill(variant, _LETTERS) for variant in variants])
    axes.set_xlim(-0.6, len(variants) - 0.4)
    axes.set_ylabel("verification accuracy, %")
    axes.grid(axis="y", alpha=0.3)
    axes.set_title(title, fontsize=11)
    axes.legend(fontsize=8)
    return rendered(figure)
