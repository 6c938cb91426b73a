"""The picture of a mask search: where the recogniser looks, what stays visible, the best candidates."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from torch import Tensor

from lightning_app.report.figures import rendered

_COLUMNS = 6
_AMBER = (0.99, 0.72, 0.22)  # visible because the template says so
_INCH = 1.7  # side of one panel
_LETTERS = 25  # of a caption of that width at 8 points; longer ones are written smaller


def search_chart(
    masks: Sequence[tuple[str, Tensor]],
    face: Tensor,
    winner: Tensor,
    saliency: Sequence[tuple[str, Tensor]] = (),
    template: tuple[str, Tensor] | None = None,
    title: str = "",
    scores: Sequence[tuple[float, bool]] = (),
) -> Image.Image:
    """Draw the saliency maps, the template and the winner on a face above the best candidates.

    Beside them stands what the colours mean, and below them all scores on one axis.

    Args:
        masks: captions and masks `[1,H,W]` of the best candidates, best first; the template's pixels are
            shown in colour where there is one.
        face: a face that belongs to nobody, `[3,H,W]` in [0,1].
        winner: the mask found, `[1,H,W]`, 1 = visible.
        saliency: captions and maps `[1,h,w]` in [0,1].
        template: caption and critical template `[1,H,W]`.
        title: a line above everything.
        scores: of each candidate its objective, and whether all images went into it.

    Returns:
        An RGB picture.

    Raises:
        ValueError: there are no candidates.
    """
    if not masks:
        raise ValueError("masks: no candidates to draw; give at least one")
    top: list[tuple[str, Tensor, str | None]] = [(text, chart, "viridis") for text, chart in saliency]
    if template is not None:
        top.append((template[0], template[1], "gray"))
    top += [("drawn face", face, None), ("under the mask", face * winner, None)]
    rows, below = 1 + -(-len(masks) // _COLUMNS), 0.9 if scores else 0.0
    figure = Figure(
        figsize=(_COLUMNS * _INCH, rows * (_INCH + 0.32) + 0.35 + below),
        dpi=110,
        facecolor="white",
        layout="constrained",
    )
    if title:
        figure.suptitle(title, fontsize=11, weight="bold")
    heights = [_INCH + 0.32] * rows + ([below] if scores else [])
    places = figure.add_gridspec(len(heights), _COLUMNS, height_ratios=heights)
    # no ticks, and captions at a place given: to lay out what is not shown took longer than all the rest
    grid = [
        [figure.add_subplot(places[row, column], xticks=[], yticks=[]) for column in range(_COLUMNS)]
        for row in range(rows)
    ]
    for axes in itertools.chain(*grid):
        axes.set_axis_off()
    for axes, (caption, picture, colours) in zip(grid[0], top, strict=False):
        _panel(axes, caption, picture, colours)
    for number, (caption, mask) in enumerate(masks):
        axes = grid[1 + number // _COLUMNS][number % _COLUMNS]
        _panel(axes, caption, _with_template(mask, None if template is None else template[1]), None)
    _legend(grid[0][-1], bool(saliency), template is not None)
    if scores:
        _scale(figure.add_subplot(places[-1, :]), scores)
    return rendered(figure)


def _legend(axes: Axes, maps: bool, template: bool) -> None:
    """Say what the colours mean, beside the first row."""
    meanings: dict[str, Any] = {"hidden": "black", "visible": "white"}
    if template:
        meanings["visible: the template"] = _AMBER
    if maps:
        low, high = (colormaps["viridis"](end) for end in (0.0, 1.0))
        meanings |= {"saliency 0 (least)": low, "saliency 1 (most)": high}
    patches = [Patch(facecolor=colour, edgecolor="grey", label=words) for words, colour in meanings.items()]
    axes.legend(handles=patches, loc="center left", fontsize=8, frameon=False, borderaxespad=0)


def _scale(axes: Axes, scores: Sequence[tuple[float, bool]]) -> None:
    """Draw all scores on one axis, by the numbers of their masks."""
    for number, (value, whole) in enumerate(scores, 1):
        axes.plot(value, 0, "o", color="C0", markersize=6, markerfacecolor="C0" if whole else "white")
        axes.annotate(str(number), (value, 0), (0, 5 + 9 * (number % 2)), textcoords="offset points", fontsize=7,
                      ha="center")  # fmt: skip
    partly = "" if all(whole for _, whole in scores) else "; hollow: scored on a part of the images alone"
    axes.set_xlabel(f"F − γ·P of the masks above by number, nats; lower is better{partly}", fontsize=8)
    axes.set_ylim(-0.5, 1.5)
    axes.margins(x=0.04)
    axes.set_yticks([])
    axes.tick_params(labelsize=7)
    axes.spines[["left", "right", "top"]].set_visible(False)


def _with_template(mask: Tensor, template: Tensor | None) -> Tensor:
    shown = mask.expand(3, -1, -1).clone()
    if template is not None:
        kept = template[0] > 0
        for channel, value in enumerate(_AMBER):
            shown[channel][kept] = value
    return shown


def _panel(axes: Axes, caption: str, picture: Tensor, colours: str | None) -> None:
    pixels = picture.detach().float().clamp(0, 1).cpu().permute(1, 2, 0).numpy()
    if pixels.shape[2] == 1:
        axes.imshow(np.squeeze(pixels, 2), cmap=colours or "gray", vmin=0, vmax=1, interpolation="nearest")
    else:
        axes.imshow(pixels, interpolation="nearest")
    longest = max(map(len, caption.splitlines()), default=0)
    axes.set_title(caption, fontsize=8 * min(1.0, _LETTERS / max(longest, 1)), y=1.0)
