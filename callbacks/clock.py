"""Clocks for what watches a fit: how fast it goes, what it waits for, how much of it is left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L


class FitClock:
    """Count training batches and images against the wall clock.

    The first batch after a start warms the device up and is left out of the speed; time spent validating is
    left out of the speed and counts for the time left.

    Args:
        now: the clock, in seconds.

    Attributes:
        total: training batches from the start to the end of the fit; infinite where nobody knows.
        batches: training batches since the start.
        images: images in all of them but the first.
        training: seconds those took.
        waiting: seconds of these in which the next batch was waited for; None where nobody knows.
        validations: validations from the start to the end of the fit.
        validations_done: those that have begun since the start.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self.start(0.0)

    def start(self, total: float, validations: float = 0.0) -> None:
        """Begin a fit.

        Args:
            total: training batches from now to the end of the fit; infinite where nobody knows.
            validations: validations from now to the end of the fit.
        """
        self.total, self.batches, self.images = total, 0, 0
        self.validations, self.validations_done = validations, 0
        self._begun = self._now()
        self.training = 0.0
        self.waiting: float | None = 0.0
        self._since: float | None = None  # when training last went on; None while it rests
        self._waited = 0.0  # what the loader's count was then
        self._validating = 0.0
        self._rested: float | None = None  # when the validation under way began

    def batch(self, images: int, waited: float | None = None) -> None:
        """Count a training batch that has just ended.

        Args:
            images: how many images it had, over all processes.
            waited: seconds the loader was waited for, over all its life; None where nobody knows.
        """
        now = self._now()
        if waited is None:
            self.waiting = None
        if self.batches:
            self.images += images
            if self._since is not None:
                self.training += now - self._since
                if self.waiting is not None and waited is not None:
                    self.waiting += waited - self._waited
        self.batches += 1
        self._since, self._waited = now, waited or 0.0

    def rest(self) -> None:
        """Say that validation begins."""
        self._since, self._rested = None, self._now()
        self.validations_done += 1

    def rested(self) -> None:
        """Say that validation has ended; training goes on with `resume`."""
        if self._rested is not None:
            self._validating += self._now() - self._rested
            self._rested = None

    def resume(self, waited: float | None = None, *, only_after_rest: bool = False) -> None:
        """Say that training goes on.

        Args:
            waited: as in `batch`.
            only_after_rest: do nothing where it never rested.
        """
        if self._since is None or not only_after_rest:
            self._since, self._waited = self._now(), waited or 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._now() - self._begun

    @property
    def images_per_s(self) -> float | None:
        """Training images per second; None before there are two batches."""
        return self.images / self.training if self.training > 0 else None

    @property
    def data_wait_share(self) -> float | None:
        """Share of the training time, 0 … 1, in which the next batch was waited for; None where nobody knows."""
        return share(self.waiting, self.training)

    @property
    def remaining(self) -> float | None:
        """Seconds left of the whole fit, at the average pace so far; None where nobody knows.

        Batches still to come at the average time of a batch, which has what comes between epochs in it, and
        validations still to come at the average time of a validation. Before the first of these they are
        not in it.
        """
        if not self.batches or math.isinf(self.total):
            return None
        validating = self._validating + (self._now() - self._rested if self._rested is not None else 0.0)
        training = (self.elapsed - validating) / self.batches * max(0.0, self.total - self.batches)
        each = validating / self.validations_done if self.validations_done else 0.0
        return training + each * max(0.0, self.validations - self.validations_done)


class Clocked(L.Callback):
    """A callback with a clock of its own, kept by the trainer's hooks.

    Only the host's clock is read and the device is never waited for: some 25 µs a step, most of which Lightning
    takes to call a callback's hooks. On a GPU the host runs ahead of the device until its queue is full or
    something reads a value back, so a single step's time says little; averages over many steps are the device's,
    since the host cannot run ahead for ever. Waiting for data is the host's too: as long as the device still has
    work queued it loses nothing by it, so the share is an upper bound of what the device stands idle for want of
    data.

    Attributes:
        clock: the clock.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = FitClock()
        self._loader: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.clock.start(batches_left(trainer), validations_left(trainer))
        self._loader = trainer.train_dataloader
        super().on_train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on after what came between two epochs."""
        self._loader = trainer.train_dataloader  # Lightning may have made it anew
        self.clock.resume(self._waited())
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Go on after a validation within the epoch."""
        self.clock.resume(self._waited(), only_after_rest=True)
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        self.clock.batch(images_in(batch) * trainer.world_size, self._waited())
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock of training."""
        self.clock.rest()
        super().on_validation_start(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the validation."""
        self.clock.rested()
        super().on_validation_end(trainer, pl_module)

    def _waited(self) -> float | None:
        waited: float | None = getattr(self._loader, "waited", None)  # TimedLoader's; others do not know
        return waited


def batches_left(trainer: L.Trainer) -> float:
    """Count the training batches per process from now to the end of the fit; infinite where nobody knows.

    Args:
        trainer: a trainer that has begun to fit, perhaps by going on with a checkpoint.
    """
    left = [math.inf]
    epoch, done = _place(trainer)
    per_epoch, together = float(trainer.num_training_batches), trainer.accumulate_grad_batches
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        left.append((trainer.max_epochs - epoch) * per_epoch - done)
    if trainer.max_steps >= 0:
        steps = float(trainer.max_steps - trainer.global_step)
        if together == 1 or math.isinf(per_epoch):
            left.append(steps * together)
        else:  # the last batch of an epoch ends a step, however many came before it
            per = math.ceil(per_epoch / together)
            steps += per if done == per_epoch else done // together
            left.append(steps // per * per_epoch + steps % per * together - done)
    return max(0.0, min(left))


def validations_left(trainer: L.Trainer) -> float:
    """Count the validations from now to the end of the fit; 0 where nobody knows.

    Args:
        trainer: a trainer that has begun to fit, perhaps by going on with a checkpoint.
    """
    every, epochs = float(trainer.val_check_batch or math.inf), trainer.check_val_every_n_epoch
    left, per_epoch = batches_left(trainer), float(trainer.num_training_batches)
    if not trainer.enable_validation or math.isinf(left) or per_epoch == 0:
        return 0.0
    if epochs is None:  # counted in batches, over the epochs' ends
        now = trainer.fit_loop.total_batch_idx + 1.0
        due = (now + left) // every - now // every
    elif math.isinf(per_epoch):
        return 0.0
    else:
        each = per_epoch // min(every, per_epoch)

        def until(batch: float) -> float:
            whole, rest = divmod(batch, per_epoch)
            return whole // epochs * each + (0.0 if (whole + 1) % epochs else rest // every)

        epoch, done = _place(trainer)
        now = epoch * per_epoch + done
        due = until(now + left) - until(now)
    return due + trainer.fit_loop.epoch_loop.val_loop.restarted_mid_evaluation  # goes on with that one


def _place(trainer: L.Trainer) -> tuple[int, float]:
    """Return how many epochs are over, and how many batches of the one under way."""
    # not current_epoch: with max_steps it is one behind after a checkpoint of an epoch's end
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return int(epochs.processed), float(batches.ready) if epochs.ready > epochs.processed else 0.0


def images_in(batch: Any) -> int:
    """Count a batch's images; 0 for what is not a FaceVeil batch.

    Args:
        batch: what a training step was given.
    """
    image = batch.get("image") if isinstance(batch, Mapping) else None
    return 0 if image is None else len(image)


def share(part: float | None, whole: float) -> float | None:
    """Divide a time by the one it is part of, 0 … 1; None where either is not known.

    Args:
        part: seconds.
        whole: seconds.
    """
    return None if part is None or whole <= 0 else min(1.0, max(0.0, part / whole))
