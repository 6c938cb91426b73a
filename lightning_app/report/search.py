"""The picture of a mask search: where the recogniser looks, what stays visible, the best candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from lightning_app.report.figures import rendered

_COLUMNS = 6
_INCH = 1.7  # side of one panel


def search_chart(
    masks: Sequence[tuple[str, Tensor]],
    face: Tensor,
    winner: Tensor,
    saliency: Sequence[tuple[str, Tensor]] = (),
    template: tuple[str, Tensor] | None = None,
    title: str = "",
) -> Image.Image:
    """Draw the saliency maps, the template and the winner on a face above the best candidates.

    Args:
        masks: captions and masks `[1,H,W]` of the best candidates, best first; the template's pixels are
            shown in colour where there is one.
        face: a face that belongs to nobody, `[3,H,W]` in [0,1].
        winner: the mask found, `[1,H,W]`, 1 = visible.
        saliency: captions and maps `[1,h,w]` in [0,1].
        template: caption and critical template `[1,H,W]`.
        title: a line above everything.

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
    rows = 1 + -(-len(masks) // _COLUMNS)
    figure = Figure(
        figsize=(_COLUMNS * _INCH, rows * (_INCH + 0.32) + 0.35),
        dpi=110,
        facecolor="white",
        layout="constrained",
    )
    if title:
        figure.suptitle(title, fontsize=11, weight="bold")
    # no ticks, and captions at a place given: to lay out what is not shown took longer than all the rest
    grid = figure.subplots(rows, _COLUMNS, squeeze=False, subplot_kw={"xticks": [], "yticks": []})
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (caption, picture, colours) in zip(grid[0], top, strict=False):
        _panel(axes, caption, picture, colours)
    for number, (caption, mask) in enumerate(masks):
        axes = grid[1 + number // _COLUMNS][number % _COLUMNS]
        _panel(axes, caption, _with_template(mask, None if template is None else template[1]), None)
    return rendered(figure)


def _with_template(mask: Tensor, template: Tensor | None) -> Tensor:
    shown = mask.expand(3, -1, -1).clone()
    if template is not None:
        kept = template[0] > 0
        for channel, value in enumerate((0.99, 0.72, 0.22)):  # amber: visible because the template says so
            shown[channel][kept] = value
    return shown


def _panel(axes: Axes, caption: str, picture: Tensor, colours: str | None) -> None:
    pixels = picture.detach().float().clamp(0, 1).cpu().permute(1, 2, 0).numpy()
    if pixels.shape[2] == 1:
        axes.imshow(np.squeeze(pixels, 2), cmap=colours or "gray", vmin=0, vmax=1, interpolation="nearest")
    else:
        axes.imshow(pixels, interpolation="nearest")
    axes.set_title(caption, fontsize=8, y=1.0)
