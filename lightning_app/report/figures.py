"""Pictures of faces and gates, drawn with matplotlib's Agg and free of its global state."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

# names stand in our figures: between two $ they would be read as formulas, and end the run where they are none
matplotlib.rcParams["text.parse_math"] = False
_DPI = 100
_GAP = 6  # pixels between faces
_LABEL = 150  # pixels left of the faces, for the rows' names
_BAR = 80  # pixels right of the faces, for the colour bar and its ticks
_LINE = 22  # pixels above the faces for each line of text
_FACE = 112  # a face is shown at least this many pixels high


def face_grid(
    rows: Mapping[str, Tensor],
    captions: Sequence[str] | None = None,
    *,
    title: str = "",
    heat: Collection[str] = (),
) -> Image.Image:
    """Draw faces as columns and ways of looking at them as named rows.

    Every pixel of a face is shown as a whole number of pixels, unblended, so that what is black in the face
    is black in the picture. A face of less than 112 pixels is enlarged by a whole factor.

    Args:
        rows: name → `[N,3,H,W]` or `[N,1,H,W]` in [0,1], all of one size; line breaks in a name are kept.
        captions: N texts above the columns.
        title: a line above everything.
        heat: names of the rows that hold heat maps: a colour bar from 0 to 1 stands beside them.

    Returns:
        An RGB picture.

    Raises:
        ValueError: no rows, rows that differ in size, or captions of another number.
    """
    if not rows:
        raise ValueError("rows: nothing to draw; give at least one row of faces")
    count, _, height, width = next(iter(rows.values())).shape
    for name, images in rows.items():
        if images.shape[1] not in (1, 3) or (len(images), *images.shape[2:]) != (count, height, width):
            raise ValueError(
                f"rows[{name!r}] is {tuple(images.shape)}; expected [{count}, 3 or 1, {height}, {width}]"
            )
    if captions is not None and len(captions) != count:
        raise ValueError(f"captions: {len(captions)} texts for {count} faces")

    scale = -(-_FACE // height)
    cell_h, cell_w = height * scale, width * scale
    above = _LINE * (bool(title) + bool(captions)) + _GAP
    full_w = _LABEL + count * (cell_w + _GAP) + (_BAR if any(name in heat for name in rows) else 0)
    full_h = above + len(rows) * (cell_h + _GAP)
    figure = Figure(figsize=(full_w / _DPI, full_h / _DPI), dpi=_DPI, facecolor="white")

    def text(x: float, y: float, words: str, size: int, **where: str) -> None:
        figure.text(x / full_w, 1 - y / full_h, words, fontsize=size, **where)  # type: ignore[arg-type]

    if title:
        text(_GAP, _LINE / 2, title, 11, va="center", weight="bold")
    for column, caption in enumerate(captions or ()):
        x = _LABEL + column * (cell_w + _GAP) + cell_w / 2
        text(x, above - _GAP - _LINE / 2, caption, 9, ha="center", va="center")
    for row, (name, images) in enumerate(rows.items()):
        top = above + row * (cell_h + _GAP)
        text(_GAP, top + cell_h / 2, name, 9, va="center")
        pixels = images.detach().float().clamp(0, 1).expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
        big = (
            pixels.cpu()
            .repeat_interleave(scale, 1)
            .repeat_interleave(scale, 2)
            .mul(255)
            .round()
            .byte()
            .numpy()
        )
        for column in range(count):
            # pasted pixel for pixel: an axes would resample
            x = _LABEL + column * (cell_w + _GAP)
            figure.figimage(big[column], xo=x, yo=full_h - top - cell_h, origin="upper")
        if name in heat:
            x = _LABEL + count * (cell_w + _GAP) + 4
            bar_h = cell_h - 12
            axes = figure.add_axes((x / full_w, 1 - (top + 6 + bar_h) / full_h, 12 / full_w, bar_h / full_h))
            bar = figure.colorbar(ScalarMappable(Normalize(0, 1), "viridis"), cax=axes, ticks=[0, 0.5, 1])
            bar.ax.tick_params(labelsize=8)
    return rendered(figure)


def gate_heatmap(gate: Tensor, size: tuple[int, int]) -> Tensor:
    """Colour a gate: mean over its channels, viridis from 0 (dark violet) to 1 (yellow), enlarged nearest.

    Args:
        gate: `[C,h,w]` in [0,1].
        size: (H, W) of the picture in pixels.

    Returns:
        `[3,H,W]` float in [0,1], on the CPU.

    Raises:
        ValueError: the gate is not `[C,h,w]`.
    """
    if gate.dim() != 3:
        raise ValueError(f"gate is {tuple(gate.shape)}; expected [C,h,w]")
    mean = gate.detach().float().mean(0).clamp(0, 1).cpu()
    coloured = torch.from_numpy(matplotlib.colormaps["viridis"](mean.numpy())[..., :3]).float()
    picture: Tensor = interpolate(coloured.permute(2, 0, 1)[None], size=size, mode="nearest-exact")
    return picture[0]


def rendered(figure: Figure) -> Image.Image:
    """Render a matplotlib figure to an RGB picture, off screen.

    Args:
        figure: one that belongs to no window.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return Image.fromarray(pixels).convert("RGB")


def png_bytes(picture: Image.Image) -> bytes:
    """Encode a picture as PNG.

    Args:
        picture: any PIL picture.
    """
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
