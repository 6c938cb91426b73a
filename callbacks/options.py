"""What a fit owes to Lightning's switches: metrics of its last weights, and monitors that can be met."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim.lr_scheduler import LambdaLR

from callbacks.fsm_ablation import FSMAblation
from callbacks.going_on import (
    check_epochs,
    check_limits,
    check_steps,
    is_scheduled,
    keep,
    planned_steps,
    steps_before,
)
from callbacks.measured import KnowsItsKeys
from callbacks.place import epoch_is_over, fit_is_over, validation_follows
from callbacks.verification import LFWVerification
from datamodules.face import FaceDataModule
from lightning_app.core.log_keys import is_verification, set_of
from lightning_app.core.printing import counted
from lightning_app.models.base import Recogniser

log = logging.getLogger("faceveil")
_PRECISION = "precision"  # of a checkpoint
_PLAIN = re.compile(r"[\w-]{1,30}")
_OURS = ("lightning.", "lightning_app.", "callbacks.")
_IN_TRAINING = ("train", "mixing")  # what is logged without a validation


class TrainerOptions(L.Callback):
    """Hold a fit to what its config asks, before it trains and at its end.

    The command line adds it. Before training it refuses an `EarlyStopping` or `ModelCheckpoint` whose `monitor` no
    model or callback will ever log, or not as often as it is looked at; where somebody else's are in the run that do
    not say what they log (`KnowsItsKeys`), nobody can know. At the end it validates the last weights, whatever
    `check_val_every_n_epoch`, `val_check_interval` and `max_steps` say: metrics in `metrics.json` are those of the
    weights in `last.ckpt`. A checkpoint holds the precision of its training, and a line says where the run goes on in
    another. It holds over how many optimiser steps a schedule of the learning rate is laid, too.

    Raises:
        ValueError: a monitor that cannot be met; names it and the keys there are. Or a run that goes on would have
            another number of steps, and nobody asked for that.
    """

    def __init__(self) -> None:
        self._every: tuple[int | None, int | float | None] | None = None  # how often, while it is put aside
        self._before: Mapping[str, Any] | None = (
            None  # steps that the run was to have, as its checkpoint says
        )
        self._planned: Mapping[str, Any] | None = None  # steps that it is to have

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check monitors and steps, tell where nothing is verified, and lay the schedule over a rate that was found."""
        self._planned = planned_steps(trainer, pl_module)
        check_steps(trainer, self._before, self._planned)
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if isinstance(callback, EarlyStopping | ModelCheckpoint) and callback.monitor is not None:
                _check_monitor(callback, trainer, pl_module)
        watching = [type(c).__name__ for c in callbacks if isinstance(c, LFWVerification | FSMAblation)]
        if watching and trainer.limit_val_batches == 0 and trainer.is_global_zero:
            log.warning(
                "trainer.limit_val_batches=0: there is no validation, %s measures nothing", watching[0]
            )

        for callback in callbacks:
            if isinstance(callback, LearningRateFinder) and callback.optimal_lr is not None:
                _take_rate(trainer, pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what is trained on: images, classes, batches, and what of it an epoch leaves out."""
        data = getattr(trainer, "datamodule", None)
        if not trainer.is_global_zero or not isinstance(data, FaceDataModule) or data.training is None:
            return
        images, batch = len(data.training), data.global_batch_size
        steps = int(min(images // batch, trainer.num_training_batches))  # limit_train_batches takes fewer
        kind = "people" if data.reader.classes_are_people else "classes"
        waiting = images - steps * batch
        left = f", {waiting:,} images are left for the next" if waiting else ""
        log.info(
            "Training on %s images of %s %s in batches of %d: %s an epoch%s.", f"{images:,}", f"{data.num_classes:,}",
            kind, batch, counted(steps, "step"), left,
        )  # fmt: skip

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write down in which precision the run trains, for how many epochs and steps, and on which batches."""
        checkpoint[_PRECISION] = str(trainer.precision)
        keep(trainer, checkpoint, self._planned)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse fewer epochs than there were; say where precision or schedule change. Old checkpoints tell less.

        Raises:
            ValueError: the run has had more epochs than it is to have, or it goes on in the midst of an epoch of other
                batches.
        """
        if trainer.state.fn == TrainerFn.FITTING:
            check_limits(trainer, checkpoint)
            check_epochs(trainer, checkpoint, is_scheduled(pl_module))
            self._before = steps_before(trainer, checkpoint)
        before, now = str(checkpoint.get(_PRECISION, "")), str(trainer.precision)
        if before != now and _PLAIN.fullmatch(before):
            log.warning(
                "The run goes on with trainer.precision %s; until now it was %s (--trainer.precision %s keeps it).",
                now, before, before,
            )  # fmt: skip

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let the validation follow after the last batch of the fit."""
        by_steps = 0 <= trainer.max_steps <= trainer.global_step
        last = by_steps or trainer.should_stop or (epoch_is_over(trainer) and fit_is_over(trainer))
        if last and trainer.enable_validation and not validation_follows(trainer):
            self._every = trainer.check_val_every_n_epoch, trainer.val_check_batch
            trainer.check_val_every_n_epoch = None
            # asked to stop, Lightning validates, unless `min_steps` or `min_epochs` forbid to stop
            if self._every[1] is None:  # validation by the clock
                trainer.should_stop = True
            elif not trainer.should_stop:
                trainer.val_check_batch = 1

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Put back how often to validate, where the fit goes on."""
        self._put_back(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put back how often to validate."""
        self._put_back(trainer)

    def _put_back(self, trainer: L.Trainer) -> None:
        if self._every is not None:
            trainer.check_val_every_n_epoch, trainer.val_check_batch = self._every
            self._every = None


def _take_rate(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    """Give schedules the learning rate that was found: Lightning sets the optimiser's, which they would overwrite."""
    rate = getattr(pl_module, "lr", None) or getattr(pl_module, "learning_rate", None)
    for config in trainer.lr_scheduler_configs:
        if isinstance(config.scheduler, LambdaLR) and rate is not None:
            config.scheduler.base_lrs = [rate] * len(config.scheduler.base_lrs)
            for group, factor in zip(
                config.scheduler.optimizer.param_groups, config.scheduler.lr_lambdas, strict=True
            ):
                group["initial_lr"], group["lr"] = rate, rate * factor(config.scheduler.last_epoch)


class HeadFirst(L.Callback):
    """Build a recogniser's head before a callback behind this one copies the model, as `WeightAveraging` does."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Build it."""
        pl_module.setup(stage)


def _check_monitor(
    callback: EarlyStopping | ModelCheckpoint, trainer: L.Trainer, pl_module: L.LightningModule
) -> None:
    key, name = str(callback.monitor), type(callback).__name__
    strict = not isinstance(callback, EarlyStopping) or callback.strict
    if not strict or (isinstance(callback, ModelCheckpoint) and key in ("epoch", "step")):
        return
    known = _known(trainer, pl_module)
    if known is None:
        return
    patterns, verified = known
    head = set_of(key)
    if head in verified and is_verification(key):
        every, looked = verified[head], trainer.check_val_every_n_epoch or 1
        if isinstance(callback, ModelCheckpoint):
            looked = math.lcm(looked, callback.every_n_epochs or 1)
        if looked % every and trainer.max_epochs != 1:
            raise ValueError(
                f"trainer.callbacks: {name} looks at {key} every {looked} epochs, but it is measured every {every}: "
                f"lower every_n_epochs of the verification, or give trainer.check_val_every_n_epoch={every} instead"
            )
        return
    if any(fnmatchcase(key, pattern) for pattern in patterns):
        return
    there = ", ".join([*sorted(patterns), *(f"{head}/accuracy" for head in verified)])
    raise ValueError(
        f"trainer.callbacks: {name} monitors {key}, which this run never logs; there will be: {there}"
    )


def _known(trainer: L.Trainer, pl_module: L.LightningModule) -> tuple[set[str], dict[str, int]] | None:
    """Return patterns of the keys a fit will log, and the names of its verification sets with how often they are due.

    None where a model or a callback of somebody else's may log what it likes.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    data = getattr(trainer, "datamodule", None)
    if not isinstance(pl_module, Recogniser) or not isinstance(data, FaceDataModule):
        return None
    if type(pl_module).training_step is not Recogniser.training_step:
        return None
    if any(not type(c).__module__.startswith(_OURS) and not isinstance(c, KnowsItsKeys) for c in callbacks):
        return None
    keys = {*pl_module.logged(data.held_out is not None)}
    keys |= {key for c in callbacks if isinstance(c, KnowsItsKeys) for key in c.logged()}
    if not trainer.enable_validation:
        return {key for key in keys if set_of(key) in _IN_TRAINING}, {}
    return keys, {c.name: c.every_n_epochs for c in callbacks if isinstance(c, LFWVerification)}
