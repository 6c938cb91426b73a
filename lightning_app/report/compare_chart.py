"""The picture of a comparison: utility against privacy, and what each attack adds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from lightning_app.report.columns import RELEASED
from lightning_app.report.compare import (
    COLOURS,
    MEASURES,
    Axis,
    LeftOpen,
    Metrics,
    Point,
    hole_of,
    most_seen,
    name_of,
    points_of,
    staircase,
)
from lightning_app.report.figures import rendered
from lightning_app.report.placing import Box, bounds, place_labels

_NOT_KNOWN: dict[str, Any] = {  # a dashed ring
    "marker": "o", "s": 52, "facecolors": "white", "edgecolors": COLOURS[7], "linestyles": [(0, (1.6, 1.2))],
    "linewidths": 1.3, "zorder": 3,
}  # fmt: skip
_MARKERS = "os^DvPX"  # one less than colours: fifty-six of both differ


def compare_chart(
    results: Mapping[str, Metrics], attacks: Sequence[str], judges: Sequence[str], axis: Axis, title: str = "",
    left_open: LeftOpen | None = None, linkers: Sequence[str] = (),
) -> Image.Image:  # fmt: skip
    """Draw utility against privacy, and what each attack adds to what the released images give away.

    Args:
        results: method -> its metrics.
        attacks: labels.
        judges: labels.
        axis: what stands for privacy.
        title: a line above everything.
        left_open: see `hole_of`.
        linkers: see `hole_of`.

    Returns:
        An RGB picture without any face.
    """
    points = points_of(results, attacks, judges, axis, left_open, linkers)
    figure = Figure(figsize=(12.5, 5.0), dpi=110, layout="constrained", facecolor="white")
    if title:
        figure.suptitle(title, fontsize=12, weight="bold")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _scatter(left, figure, points, axis)
    _before_and_after(right, results, attacks, judges, axis, left_open, linkers)
    return rendered(figure)


def _scatter(axes: Axes, figure: Figure, points: Sequence[Point], axis: Axis) -> None:
    axes.set_xlabel(f"{axis.title}\n{'more private →' if axis.higher_is_private else '← more private'}")
    axes.set_ylabel("verification accuracy on desensitized faces, %\nmore useful →")
    axes.grid(alpha=0.25)
    if not points:
        axes.text(0.5, 0.5, "nothing measured yet", ha="center", transform=axes.transAxes)
        return
    axes.set_xlim(*bounds(min(p.x_low for p in points), max(p.x_high for p in points), axis.scale / 20)[:2])
    axes.set_ylim(*bounds(min(p.y_low for p in points), max(p.y_high for p in points))[:2])
    if corners := staircase(points, axis):  # there is none where attackers failed on every method
        axes.plot(
            *zip(*corners, strict=True), color=COLOURS[1], linewidth=1.5, alpha=0.6, label="Pareto front"
        )
    for point in points:
        if point.hole is not None:  # no interval: how much more is given away is not known
            axes.scatter([point.x], [point.y], **_NOT_KNOWN)
            continue
        colour = COLOURS[1] if point.front else COLOURS[7]
        axes.errorbar(
            point.x, point.y, yerr=[[point.y - point.y_low], [point.y_high - point.y]],
            xerr=[[point.x - point.x_low], [point.x_high - point.x]], fmt="o", color=colour, markersize=7,
            markerfacecolor=colour if point.front else "white", elinewidth=1, ecolor=(*to_rgb(colour), 0.45),
        )  # fmt: skip
    axes.plot([], [], "o", color=COLOURS[7], markerfacecolor="white", label="beaten by another method")
    if any(p.hole is not None for p in points):
        axes.scatter([], [], label="attackers failed: not known", **_NOT_KNOWN)
    axes.legend(fontsize=8, loc="lower right" if not axis.higher_is_private else "lower left")
    texts = [axes.annotate(name_of(p, axis), (p.x, p.y), fontsize=9.5) for p in points]
    figure.draw_without_rendering()  # only now are places known in pixels
    frame, legend = axes.get_window_extent(), axes.get_legend()
    tall = figure.bbox.height

    def flipped(box: Bbox) -> Box:
        return box.x0, tall - box.y1, box.x1, tall - box.y0

    def pixels(x: float, y: float) -> tuple[float, float]:
        at = axes.transData.transform((x, y))
        return float(at[0]), tall - float(at[1])

    anchors = [pixels(p.x, p.y) for p in points]
    bars = [bar for p in points if p.hole is None for bar in error_boxes(p, pixels)]
    if legend is not None:
        bars.append(flipped(legend.get_window_extent()))
    extents = [text.get_window_extent() for text in texts]
    places = place_labels(anchors, [(e.width, e.height) for e in extents], flipped(frame), bars)
    for text, extent, (left, top) in zip(texts, extents, places, strict=True):
        text.set_position(axes.transData.inverted().transform((left, tall - top - extent.height)))  # type: ignore[arg-type]


def error_boxes(point: Point, pixels: Callable[[float, float], tuple[float, float]]) -> list[Box]:
    """Return the boxes that a point's two error bars cover.

    Args:
        point: the point.
        pixels: what turns its units into pixels, y downwards.
    """
    (left, y), (right, _) = pixels(point.x_low, point.y), pixels(point.x_high, point.y)
    (x, low), (_, high) = pixels(point.x, point.y_low), pixels(point.x, point.y_high)
    return [(left, y - 1, right, y + 1), (x - 1, high, x + 1, low)]


def _before_and_after(
    axes: Axes, results: Mapping[str, Metrics], attacks: Sequence[str], judges: Sequence[str], axis: Axis,
    left_open: LeftOpen | None = None, linkers: Sequence[str] = (),
) -> None:  # fmt: skip
    """Draw, method by method, what is seen as released and after each attack, by whoever sees most."""
    labels = list(results)
    for number, attack in enumerate((RELEASED, *attacks)):
        places, values, lows, highs = [], [], [], []
        for row, label in enumerate(labels):
            seen = most_seen(results[label], attack, judges, axis)
            if seen is None or not math.isfinite(seen[0]):
                continue
            places.append(row + (number - len(attacks) / 2) * 0.6 / (len(attacks) + 1))
            values.append(axis.scale * seen[0])
            lows.append(axis.scale * (seen[0] - seen[1]))
            highs.append(axis.scale * (seen[2] - seen[0]))
        if values:
            axes.errorbar(
                values, places, xerr=[lows, highs], fmt=_MARKERS[number % len(_MARKERS)], markersize=5,
                color=COLOURS[number % len(COLOURS)], elinewidth=0.8, label=attack,
            )  # fmt: skip
    holes = [hole_of(results, label, attacks, judges, axis, left_open, linkers) for label in labels]
    names = [
        label if hole is None else f"{label}\n({hole.mark(axis)})"
        for label, hole in zip(labels, holes, strict=True)
    ]
    axes.set_yticks(range(len(labels)), names)
    axes.set_ylim(max(1, len(labels)) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.25)
    for row in range(1, len(labels)):
        axes.axhline(row - 0.5, color="#dddddd", linewidth=0.6)
    name = MEASURES[axis.measure].label + (", %" if axis.scale == 100 else "")
    axes.set_xlabel(f"{name}, before and after each attack")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=5, frameon=False,
                    columnspacing=1.0, handletextpad=0.3)  # fmt: skip
