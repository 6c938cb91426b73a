"""The picture of what attackers learnt: each one's loss against steps, a line for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from PIL import Image

from lightning_app.report.figures import rendered

Line = tuple[Sequence[int], Sequence[float], bool]  # steps, losses, and whether more might have helped


def loss_figure(curves: Mapping[str, Mapping[str, Line]], title: str = "") -> Image.Image:
    """Draw a panel for each attacker, with a line for each method; a dashed one might have gone on falling.

    Args:
        curves: attacker -> method -> its line.
        title: above everything.

    Returns:
        An RGB picture.
    """
    figure = Figure(figsize=(8.6, 0.6 + 3.0 * max(1, len(curves))), dpi=110, layout="constrained")
    panels = figure.subplots(max(1, len(curves)), 1, squeeze=False)[:, 0]
    for axes, (attacker, lines) in zip(panels, curves.items(), strict=False):
        for method, (steps, losses, opened) in lines.items():
            axes.plot(
                steps,
                losses,
                "--" if opened else "-",
                linewidth=1,
                label=f"{method}{' (open)' if opened else ''}",
            )
        axes.set_title(attacker, fontsize=9)
        axes.set_ylabel("loss", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        if lines:
            axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    panels[-1].set_xlabel("steps", fontsize=9)
    figure.suptitle(title, fontsize=10)
    return rendered(figure)
