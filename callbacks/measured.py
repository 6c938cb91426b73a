"""Measurements on their way to Lightning and the loggers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

import lightning as L

from lightning_app.core.measurement import Measurement, flat
from lightning_app.runs.loggers import WandbLogger


@runtime_checkable
class KnowsItsKeys(Protocol):
    """A callback that says what it may log, so that a monitor of something else is refused before training."""

    def logged(self) -> Collection[str]:
        """Return its log keys, as patterns such as `val/recall_*` (`fnmatch`)."""


def log_measurements(
    trainer: L.Trainer, pl_module: L.LightningModule, measurements: Sequence[Measurement]
) -> None:
    """Log what a callback measured, under flat keys, and tell W&B which way each is better.

    The callback keeps them in its attribute `measurements`: the table at the end of the run has their labels then.
    Every rank logs the same numbers: nothing is synced.

    Args:
        trainer: of the run.
        pl_module: its model.
        measurements: any; none logs nothing.
    """
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.know(measurements)
    if measurements:
        pl_module.log_dict(flat(measurements), batch_size=1)
