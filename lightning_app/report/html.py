"""The page of a comparison: one file that opens anywhere, without a network."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from torch import Tensor

from lightning_app.core.measurement import Measurement
from lightning_app.report.columns import RELEASED, WORDS, columns_of, find_metric
from lightning_app.report.compare import (
    Axis,
    Figures,
    bounds,
    error_boxes,
    place_labels,
    points_of,
    staircase,
    strongest,
)
from lightning_app.report.figures import png_bytes

_TEMPLATE = "compare.html.j2"
_WIDE, _HIGH = 820, 480  # of the plot, in its own units
_LEFT, _TOP, _RIGHT, _BOTTOM = 76, 18, 18, 66  # margins
_CHARACTER, _LINE = 7.6, 17  # of a label
_GAP = 4  # pixels between faces


@dataclass(frozen=True)
class Example:
    """Faces of one method, in one state.

    Attributes:
        caption: such as `as released`.
        faces: `[N,3,H,W]` in [0,1].
    """

    caption: str
    faces: Tensor


@dataclass(frozen=True)
class Comparison:
    """All that the page shows.

    Attributes:
        title: of the page.
        results: method -> figure -> value; those of an attack under `ATTACK/`.
        about: method -> what it is, in a few words.
        attacks: labels.
        judges: label -> what it is.
        recognisers: label -> what it is.
        axis: what stands for privacy.
        examples: method -> its faces in each state.
        faces: what the faces are.
        private: whether faces of real people are shown.
        commands: the command line that made it, and those it ran.
        versions: name -> version.
        failed: what did not work, in a line each.
        facts: name -> value: pairs, images, people.
    """

    title: str
    results: Mapping[str, Figures]
    about: Mapping[str, str]
    attacks: Sequence[str]
    judges: Mapping[str, str]
    recognisers: Mapping[str, str]
    axis: Axis
    examples: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    faces: str = "drawn faces"
    private: bool = False
    commands: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    failed: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is read, its interval, and what it is sorted by."""

    text: str
    interval: str = ""
    order: float | str = ""


def render(comparison: Comparison) -> str:
    """Make the page: no address of anything outside it stands in it.

    Args:
        comparison: what it shows.

    Returns:
        HTML, with styles, pictures and the little script that sorts tables inside.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(_TEMPLATE).render(
        c=comparison,
        plot=_plot(comparison),
        methods=method_table(comparison),
        states=state_table(comparison),
        words=WORDS,
        examples=[
            (label, [(e.caption, _strip(e.faces), len(e.faces)) for e in shown])
            for label, shown in comparison.examples.items()
        ],
    )


def method_table(comparison: Comparison) -> tuple[list[str], list[list[Cell]]]:
    """Make the table of methods: utility, what the release looks like, what the strongest attack sees.

    Args:
        comparison: what is shown.

    Returns:
        Heads and rows.
    """
    heads = ["method", "accuracy s1", "s2", "s3", "hidden", "dSSIM", "PSNR", comparison.axis.title, "by"]
    rows = []
    for label, figures in comparison.results.items():
        seen = strongest(figures, comparison.attacks, list(comparison.judges), comparison.axis)
        row = [Cell(label, order=label)]
        row += [_cell(find_metric(figures, f"accuracy{s}"), 100) for s in ("", "_s2", "_s3")]
        row += [_cell(find_metric(figures, "mask_ratio"), 100)]
        row += [_cell(find_metric(figures, name)) for name in ("dssim", "psnr")]
        if seen is None:
            rows.append([*row, Cell("–"), Cell("–")])
            continue
        scale = comparison.axis.scale
        whom = seen[3] if not seen[4] or len(comparison.judges) == 1 else f"{seen[3]}, {seen[4]}"
        rows.append([*row, _number(*seen[:3], scale), Cell(whom, order=whom)])
    return heads, rows


def state_table(comparison: Comparison) -> tuple[list[str], list[list[Cell]]]:
    """Make the table of everything measured: a row for each method and attack.

    Args:
        comparison: what is shown.

    Returns:
        Heads and rows.
    """
    columns = list(columns_of(list(comparison.judges), list(comparison.recognisers), comparison.results))
    heads = ["method", "seen", *(column.head.format(label) for column, label in columns)]
    rows = []
    for label, figures in comparison.results.items():
        for attack in (RELEASED, *comparison.attacks):
            if attack != RELEASED and find_metric(figures, "dssim", attack=attack) is None:
                continue  # not mounted on this method
            found = [(find_metric(figures, c.figure, whom, attack), c.scale) for c, whom in columns]
            cells = [_cell(one, scale) for one, scale in found]
            rows.append([Cell(label, order=label), Cell(attack, order=attack), *cells])
    return heads, rows


def _cell(one: Measurement | None, scale: float = 1) -> Cell:
    return Cell("–") if one is None else _number(one.value, one.low, one.high, scale)


def _number(value: float, low: float | None, high: float | None, scale: float = 1) -> Cell:
    digits = 1 if scale == 100 or abs(value) >= 2 else 3
    if not math.isfinite(value):
        return Cell("∞" if value > 0 else "−∞", order=1e9 if value > 0 else -1e9)
    text = f"{scale * value:.{digits}f}"
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return Cell(text, order=scale * value)
    return Cell(text, f"[{scale * low:.{digits}f}, {scale * high:.{digits}f}]", scale * value)


def _plot(comparison: Comparison) -> dict[str, Any] | None:
    """Lay the scatter out: everything in the plot's own units, y downwards; None where there is no point."""
    axis = comparison.axis
    points = points_of(comparison.results, comparison.attacks, list(comparison.judges), axis)
    if not points:
        return None
    x0, x1, xs = bounds(min(p.x_low for p in points), max(p.x_high for p in points), axis.scale / 20)
    y0, y1, ys = bounds(min(p.y_low for p in points), max(p.y_high for p in points))
    left, top, right, bottom = _LEFT, _TOP, _WIDE - _RIGHT, _HIGH - _BOTTOM

    def pixels(x: float, y: float) -> tuple[float, float]:
        return (
            round(left + (x - x0) / (x1 - x0) * (right - left), 1),
            round(bottom - (y - y0) / (y1 - y0) * (bottom - top), 1),
        )

    anchors = [pixels(p.x, p.y) for p in points]
    sizes = [(_CHARACTER * len(p.label), float(_LINE)) for p in points]
    bars = [error_boxes(p, pixels) for p in points]
    places = place_labels(anchors, sizes, (left, top, right, bottom), [box for two in bars for box in two])
    unit = " %" if axis.scale == 100 else ""
    return {
        "size": (_WIDE, _HIGH),
        "frame": (left, top, right - left, bottom - top),
        "x_ticks": [(pixels(x, y0)[0], f"{x:g}") for x in xs],
        "y_ticks": [(pixels(x0, y)[1], f"{y:g}") for y in ys],
        "x_title": axis.title,
        "hint": "more private →" if axis.higher_is_private else "← more private",
        "front": " ".join(f"{x},{y}" for x, y in (pixels(*corner) for corner in staircase(points, axis))),
        "points": [
            {
                "label": p.label,
                "at": at,
                "text": (round(place[0], 1), round(place[1] + 0.76 * _LINE, 1)),
                "bars": [tuple(round(v, 1) for v in box) for box in two],
                "front": p.front,
                "words": f"{p.label}: accuracy {p.y:.1f} % [{p.y_low:.1f}, {p.y_high:.1f}], {axis.title} "
                f"{p.x:.3g}{unit} [{p.x_low:.3g}, {p.x_high:.3g}] ({p.attack}{', ' + p.judge if p.judge else ''})"
                f"{'; on the Pareto front' if p.front else ''}",
            }
            for p, at, place, two in zip(points, anchors, places, bars, strict=True)
        ],
    }


def _strip(faces: Tensor) -> str:
    """Put faces side by side into one PNG, pixel for pixel: a `data:` address."""
    pixels = (faces.detach().float().clamp(0, 1) * 255).round().byte().cpu()
    count, _, height, width = pixels.shape
    row = torch.full((3, height, count * (width + _GAP) - _GAP), 255, dtype=torch.uint8)
    for number, face in enumerate(pixels):
        row[:, :, number * (width + _GAP) : number * (width + _GAP) + width] = face
    picture = Image.fromarray(row.permute(1, 2, 0).contiguous().numpy())
    return "data:image/png;base64," + base64.b64encode(png_bytes(picture)).decode()
