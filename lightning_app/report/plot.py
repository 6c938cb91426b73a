"""The scatter of a comparison's page, laid out in its own units: utility against what the strongest attack sees."""

from __future__ import annotations

from typing import Any

from lightning_app.report.compare import Axis, Point, name_of, staircase
from lightning_app.report.compare_chart import error_boxes
from lightning_app.report.frontier import Measured, key_of
from lightning_app.report.placing import bounds, place_labels

_WIDE, _HIGH = 820, 480  # of the plot, in its own units
_LEFT, _TOP, _RIGHT, _BOTTOM = 76, 18, 18, 66  # margins
_CHARACTER, _LINE = 7.6, 17  # of a label
_MANY = 12  # points; with more of them labels are smaller and the plot is taller


def plot_of(found: Measured, axis: Axis) -> dict[str, Any] | None:
    """Lay the scatter out: everything in the plot's own units, y downwards; None where there is no point.

    Args:
        found: what is shown.
        axis: what stands for privacy.
    """
    points = found.points(axis)
    if not points:
        return None
    many = len(points) > _MANY
    small, tall = (0.85, 620) if many else (1.0, _HIGH)
    x0, x1, xs = bounds(min(p.x_low for p in points), max(p.x_high for p in points), axis.scale / 20)
    y0, y1, ys = bounds(min(p.y_low for p in points), max(p.y_high for p in points))
    left, top, right, bottom = _LEFT, _TOP, _WIDE - _RIGHT, tall - _BOTTOM

    def pixels(x: float, y: float) -> tuple[float, float]:
        return (
            round(left + (x - x0) / (x1 - x0) * (right - left), 1),
            round(bottom - (y - y0) / (y1 - y0) * (bottom - top), 1),
        )

    anchors = [pixels(p.x, p.y) for p in points]
    sizes = [(small * _CHARACTER * len(name_of(p, axis)), small * _LINE) for p in points]
    # of what is not known there is no interval
    bars = [error_boxes(p, pixels) if p.hole is None else [] for p in points]
    places = place_labels(anchors, sizes, (left, top, right, bottom), [box for two in bars for box in two])
    return {
        "key": key_of(axis),
        "size": (_WIDE, tall),
        "frame": (left, top, right - left, bottom - top),
        "range": (y0, y1),
        "many": many,
        "holes": any(p.hole is not None for p in points),
        "x_ticks": [(pixels(x, y0)[0], f"{x:g}") for x in xs],
        "y_ticks": [(pixels(x0, y)[1], f"{y:g}") for y in ys],
        "x_title": axis.title,
        "hint": "more private →" if axis.higher_is_private else "← more private",
        "front": " ".join(f"{x},{y}" for x, y in (pixels(*corner) for corner in staircase(points, axis))),
        "points": [
            {
                "label": p.label,
                "name": name_of(p, axis),
                "at": at,
                "text": (round(place[0], 1), round(place[1] + 0.76 * small * _LINE, 1)),
                "bars": [tuple(round(v, 1) for v in box) for box in two],
                "front": p.front,
                "hole": p.hole is not None,
                "words": _words(p, axis),
            }
            for p, at, place, two in zip(points, anchors, places, bars, strict=True)
        ],
    }


def _words(p: Point, axis: Axis) -> str:
    unit = " %" if axis.scale == 100 else ""
    head = f"{p.label}: accuracy {p.y:.1f} % [{p.y_low:.1f}, {p.y_high:.1f}]"
    value, by = f"{p.x:.3g}{unit}", f"({p.attack}{', ' + p.judge if p.judge else ''})"
    if p.hole is None:
        front = "; on the Pareto front" if p.front else ""
        return f"{head}, {axis.title} {value} [{p.x_low:.3g}, {p.x_high:.3g}] {by}{front}"
    said = "not known" if p.hole.attacked else "not attacked"
    return f"{head}, {axis.title}: {said}, {p.hole.words}; {axis.bound} {value} {by}"
