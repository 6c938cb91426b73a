"""search.png: a legend for its colours, and all scores on one axis."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from lightning_app.report import search
from lightning_app.report.figures import rendered


@pytest.mark.parametrize("template", [True, False])
def test_legend_and_one_scale(template: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []

    def keep(figure: Figure) -> Image.Image:
        drawn.append(figure)
        return rendered(figure)

    monkeypatch.setattr(search, "rendered", keep)
    masks = [(f"{n}: 4.{n}", (torch.arange(64).reshape(1, 8, 8) % (n + 1) == 0).float()) for n in range(1, 9)]
    maps = [("mean saliency", torch.linspace(0, 1, 64).reshape(1, 8, 8))] if template else []
    kept = ("template", torch.ones(1, 8, 8)) if template else None
    scores = [(4.0 + n / 10, n < 6) for n in range(8)]
    picture = search.search_chart(masks, torch.rand(3, 8, 8), masks[0][1], maps, kept, "mine", scores)
    assert picture.mode == "RGB"
    (figure,) = drawn
    legends = [legend for axes in figure.axes if (legend := axes.get_legend()) is not None]
    words = [text.get_text() for legend in legends for text in legend.get_texts()]
    expected = ["hidden", "visible"]
    assert words == expected + (
        ["visible: the template", "saliency 0 (least)", "saliency 1 (most)"] if template else []
    )
    scale = figure.axes[-1]
    assert [np.ravel(line.get_xdata())[0] for line in scale.lines] == [value for value, _ in scores]
    assert "lower is better; hollow: scored on a part of the images alone" in scale.get_xlabel()
    assert len(search.search_chart(masks[:1], torch.rand(3, 8, 8), masks[0][1]).getbands()) == 3


def test_captions_of_neighbours_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where F is above ten they are longer than a panel is wide."""
    drawn: list[Figure] = []

    def keep(figure: Figure) -> Image.Image:
        drawn.append(figure)
        return rendered(figure)

    monkeypatch.setattr(search, "rendered", keep)
    masks = [(f"{n}: 12.{n}81 = 13.{n}50 − 1·0.769", torch.ones(1, 8, 8)) for n in range(1, 13)]
    search.search_chart(masks, torch.rand(3, 8, 8), masks[0][1])
    (figure,) = drawn
    boxes = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title().endswith("0.769")]
    assert len(boxes) == 12
    rows = boxes[:6], boxes[6:]
    assert all(a.x1 < b.x0 for row in rows for a, b in zip(row, row[1:], strict=False))
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
