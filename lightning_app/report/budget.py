"""The picture of a privacy budget: how much of it each frequency has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from lightning_app.report.figures import rendered


def budget_figure(
    epsilons: Tensor, keep: Sequence[int], block: int, planes: Sequence[str], title: str = ""
) -> Image.Image:
    """Draw a panel of block × block frequencies for each plane; light cells have a large budget, little noise.

    Args:
        epsilons: `[C]`, ε of a coefficient of each channel.
        keep: numbers of the C channels: `(plane·block + u)·block + v`.
        block: side of a block.
        planes: names of the planes.
        title: a line above everything.

    Returns:
        An RGB picture; frequencies without a channel, such as the DC, are left white.
    """
    table = np.full(len(planes) * block**2, np.nan)
    table[list(keep)] = epsilons.detach().double().cpu().numpy()
    figure = Figure(figsize=(1 + 4 * len(planes), 4.2), dpi=110, facecolor="white", layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11)
    top = float(np.nanmax(table))
    grid = figure.subplots(1, len(planes), squeeze=False)[0]
    for axes, name, cells in zip(grid, planes, table.reshape(-1, block, block), strict=True):
        shown = axes.imshow(np.ma.masked_invalid(cells), cmap="viridis", vmin=0, vmax=top)
        for (u, v), value in np.ndenumerate(cells) if block <= 8 else ():
            if np.isfinite(value):
                axes.text(v, u, f"{value:.1f}", ha="center", va="center", fontsize=7,
                          color="black" if value > top / 2 else "white")  # fmt: skip
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("horizontal frequency")
        axes.set_ylabel("vertical frequency")
    figure.colorbar(shown, ax=list(grid), label="ε of a coefficient", shrink=0.8)
    return rendered(figure)
