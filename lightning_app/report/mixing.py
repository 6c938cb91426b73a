"""The picture of how much was mixed: the probability of each k over a training, and how often it was drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from lightning_app.report.figures import rendered


def mixing_figure(
    ends: Sequence[float],
    candidates: Sequence[int],
    probability: Sequence[Sequence[float]],
    drawn: Sequence[Sequence[float]],
    title: str = "",
) -> Image.Image:
    """Draw the probability of each k, and the share of batches that had it, over the batches of a training.

    Args:
        ends: number of batches at the end of each part of the training, rising.
        candidates: the k, K of them.
        probability: of each part the mean probabilities `[K]`.
        drawn: of each part the shares `[K]`.
        title: a line above everything.

    Returns:
        An RGB picture.
    """
    edges = np.concatenate([[0.0], np.asarray(ends, dtype=float)])
    figure = Figure(figsize=(6.4, 4.6), dpi=110, layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    lines = {"probability of k": probability, "share of batches": drawn}
    for axes, (name, values) in zip(panels, lines.items(), strict=True):
        heights = np.asarray(values, dtype=float).T  # [K, parts]
        base = np.zeros(heights.shape[1])
        for k, height in zip(candidates, heights, strict=True):
            axes.stairs(base + height, edges, baseline=base, fill=True, label=f"k = {k}")
            base = base + height
        axes.set_ylim(0, 1)
        axes.set_ylabel(name, fontsize=9)
        axes.tick_params(labelsize=8)
    panels[0].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    panels[1].set_xlabel("batches", fontsize=9)
    figure.suptitle(title, fontsize=10)
    return rendered(figure)
