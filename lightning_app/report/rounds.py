"""The picture of a federation: accuracy, losses and drift, round by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from lightning_app.report.figures import rendered

_TITLES = {
    "loss": "training loss, nats",
    "drift": "norm of the update",
    "cosine": "cosine to the mean update",
}


def rounds_chart(
    rounds: Sequence[int],
    accuracy: Mapping[str, Sequence[float]],
    clients: Mapping[str, Mapping[str, Sequence[float]]],
    key: str,
    title: str = "",
) -> Image.Image:
    """Draw what happened round by round.

    Args:
        rounds: their numbers.
        accuracy: the global model's, shares of 1: `""`, and its 95 % interval `_low`, `_high`; NaN where it was not
            verified, empty where nothing was.
        clients: `loss`, `drift`, `cosine` → owner → a metric per round, NaN where the owner was left out.
        key: log key of the accuracy.
        title: a line above everything.

    Returns:
        An RGB picture.
    """
    panels = [*(["accuracy"] if accuracy else []), *clients]
    figure = Figure(figsize=(3.4 * len(panels) + 0.6, 3.2), dpi=110, layout="constrained")
    for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        if panel == "accuracy":
            middle, low, high = (
                100 * np.asarray(accuracy[end], dtype=float) for end in ("", "_low", "_high")
            )
            there = np.isfinite(middle)
            at = np.asarray(rounds)[there]
            axes.plot(at, middle[there], "o-", markersize=3)
            axes.fill_between(at, low[there], high[there], alpha=0.2)
            axes.set_title(f"{key}, %, 95 % interval", fontsize=9)
        else:
            for owner, values in clients[panel].items():
                axes.plot(rounds, values, "o-", markersize=3, label=owner)
            axes.set_title(_TITLES[panel], fontsize=9)
            if clients[panel]:
                axes.legend(fontsize=7)
        axes.set_xlabel("round", fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    return rendered(figure)
