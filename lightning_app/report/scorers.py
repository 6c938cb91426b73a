"""The picture of scorers: what each says of a mask before training, and the accuracy after it."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from PIL import Image

from lightning_app.report.figures import rendered


def scorers_chart(
    losses: Mapping[str, Mapping[str, float]], accuracy: Mapping[str, Mapping[str, float]], title: str = ""
) -> Image.Image:
    """Draw accuracy after training over F, one panel per scorer.

    Args:
        losses: scorer → mask → F in nats.
        accuracy: mask → system → verification accuracy, a share of 1.
        title: a line above everything.

    Returns:
        An RGB picture.
    """
    figure = Figure(figsize=(1 + 4.8 * len(losses), 4.2), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=11)
    systems = list(dict.fromkeys(system for found in accuracy.values() for system in found))
    for axes, (name, of) in zip(
        figure.subplots(1, len(losses), squeeze=False)[0], losses.items(), strict=True
    ):
        for marker, system in zip("o^sDv" * len(systems), systems, strict=False):
            here = [label for label in of if system in accuracy[label]]
            axes.scatter(
                [of[label] for label in here], [100 * accuracy[label][system] for label in here],
                marker=marker, label=system,
            )  # fmt: skip
            for label in here if system == systems[0] else ():
                axes.annotate(label, (of[label], 100 * accuracy[label][system]), (4, 3), fontsize=7,
                              textcoords="offset points")  # fmt: skip
        axes.set_xlabel(f"F of {name}, nats")
        axes.set_ylabel("verification accuracy after training, %")
        axes.margins(x=0.28)  # names stand to the right of their points
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return rendered(figure)
