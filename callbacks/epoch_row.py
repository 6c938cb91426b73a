"""The training loss in the row of every epoch, however few steps an epoch has."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch import Tensor

LAST = ("train/loss", "train/lr")  # of a step


class EpochRow(L.Callback):
    """Log the last step's loss and learning rate at the end of every epoch.

    Lightning logs a step's metrics every 50 steps only: of shorter epochs nothing of the loss would be in
    `metrics.csv`. The command line adds it to `fit`.
    """

    def __init__(self) -> None:
        self._last: dict[str, Tensor] = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep what the epoch's last step logged."""
        if trainer.is_last_batch:
            logged = trainer.callback_metrics
            self._last = {key: logged[key].detach() for key in LAST if key in logged}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log it."""
        for key, value in self._last.items():
            pl_module.log(key, value, on_step=False, on_epoch=True, batch_size=1)
        self._last = {}
