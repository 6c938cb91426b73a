"""The picture of a fit: losses and accuracies, epoch by epoch, from its `metrics.csv`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from lightning_app.core.log_keys import accuracies
from lightning_app.report.figures import rendered
from lightning_app.runs.folder import logs_of, read_log

Curves = dict[str, dict[int, float]]  # log key → epoch, from 1 → value


def read_curves(run_dir: Path) -> Curves:
    """Read how the metrics of a run went, over all its starts.

    Args:
        run_dir: with `metrics.csv`, and `metrics.N.csv` of earlier starts.

    Returns:
        Losses (`train/mean_loss`, or `train/loss` where a model logs no mean; `val/loss`) and accuracies of
        verification, of an epoch logged more than once the last; empty where there is no log.

    Raises:
        OSError, ValueError: a file cannot be read.
    """
    found: Curves = {}
    for path in logs_of(run_dir):
        _add(found, read_log(path))
    if "train/mean_loss" in found:
        found.pop("train/loss", None)
    return found


def _add(found: Curves, rows: Iterable[dict[str, str]]) -> None:
    for row in rows:
        epoch = row.get("epoch", "")
        for key, value in row.items() if epoch else ():
            if value and (key in ("train/loss", "train/mean_loss", "val/loss") or _is_accuracy(key)):
                found.setdefault(key, {})[int(epoch) + 1] = float(value)


def _is_accuracy(key: str) -> bool:
    return key == "val/accuracy" or bool(accuracies([key]))


def curves_chart(curves: Curves, title: str = "") -> Image.Image | None:
    """Draw losses, and beside them accuracies where there are any, over epochs.

    Args:
        curves: see `read_curves`.
        title: a line above everything.

    Returns:
        An RGB picture; None where there is nothing to draw.
    """
    losses = {key: of for key, of in curves.items() if key.endswith("loss")}
    panels = [
        (words, {key: of for key, of in part.items() if of})
        for words, part in (
            ("loss, nats", losses), ("accuracy, %", {key: of for key, of in curves.items() if key not in losses}),
        )
    ]  # fmt: skip
    panels = [(words, part) for words, part in panels if part]
    if not panels:
        return None
    figure = Figure(figsize=(0.4 + 3.6 * len(panels), 3.0), dpi=100)
    figure.suptitle(title, fontsize=10)
    for axes, (words, part) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for key, of in part.items():
            scale = 1 if key in losses else 100
            epochs = sorted(of)
            axes.plot(epochs, [scale * of[epoch] for epoch in epochs], "o-", markersize=3, label=key)
        axes.set_title(words, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.subplots_adjust(left=0.09, right=0.98, bottom=0.15, top=0.83, wspace=0.22)
    return rendered(figure)
