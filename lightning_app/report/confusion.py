"""A confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from lightning_app.report.figures import rendered

_WORDS = 20  # most classes whose counts are written into their cells


def confusion_picture(matrix: Tensor, names: Sequence[str], title: str = "") -> Image.Image:
    """Draw a confusion matrix: colour is the share of the true class, text the count.

    Args:
        matrix: `[C,C]` counts; rows are the true classes, columns the predicted ones.
        names: of the C classes.
        title: a line above it.

    Returns:
        An RGB picture.

    Raises:
        ValueError: there are not C names.
    """
    if len(names) != len(matrix):
        raise ValueError(f"names: {len(names)} for {len(matrix)} classes")
    counts = matrix.cpu().double().numpy()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.4 + 0.55 * min(len(names), 2 * _WORDS)
    figure = Figure(figsize=(side + 0.8, side), dpi=100, facecolor="white", layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(shown, ax=axes, fraction=0.046, label="share of the true class")
    axes.set(title=title, xlabel="predicted", ylabel="true")
    if len(names) <= _WORDS:
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        for (row, column), count in np.ndenumerate(counts):
            ink = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=ink, fontsize=8)
    return rendered(figure)
