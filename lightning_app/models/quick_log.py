"""Logging at every step without Lightning's cost of a first time."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor


def log_again(trainer: L.Trainer, name: str, value: Tensor, batch_size: int) -> bool:
    """Return a metric that `training_step` has logged before in this epoch its value of this step.

    `LightningModule.log` checks its arguments and takes the metric to the device anew with every call, copying its
    description: three calls were 2 of the 8.6 ms of CPU that a step of a tiny network took (two busy cores), 40 % in a
    profile, and on a GPU small batches wait for the host. What then counts is one call of the collection's own, and
    that is made here.

    Args:
        trainer: that fits.
        name: of the metric.
        value: a scalar on the device it was logged on, without a graph.
        batch_size: images behind it.

    Returns:
        False where the metric is not known, or Lightning keeps it otherwise than we know: `log` it.
    """
    results: Any = getattr(trainer, "_results", None)
    key = f"training_step.{name}"
    if results is None or key not in results or not hasattr(results, "update_metrics"):
        return False
    results.update_metrics(key, value, batch_size)
    return True


def learning_rate(trainer: L.Trainer) -> Tensor:
    """Return the rate of the first optimiser's first group, to be logged.

    A tensor of the host's: of a number Lightning makes one on the device, and waits for it at every step.

    Args:
        trainer: that fits.
    """
    return torch.tensor(trainer.optimizers[0].param_groups[0]["lr"], dtype=torch.float32)


class QuickLog(L.LightningModule):
    """A module whose `training_step` logs by `note`: anew where an epoch begins, quickly then, see `log_again`."""

    _log_anew = True

    def on_train_epoch_start(self) -> None:
        """Let Lightning empty what it has kept of the epoch before."""
        self._log_anew = True

    def note(self, anew: bool, name: str, value: Tensor, batch_size: int, **how: Any) -> None:
        """Log a metric of a step.

        Args:
            anew: whether this is the first step of the epoch.
            name: of the metric.
            value: a scalar without a graph.
            batch_size: images behind it.
            **how: options of `LightningModule.log`, the same at every step.
        """
        if anew or not log_again(self.trainer, name, value, batch_size):
            self.log(name, value, batch_size=batch_size, **how)
