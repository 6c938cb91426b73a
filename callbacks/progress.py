"""How far a run is: a bar with the time left of the whole fit, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import (
    BatchesProcessedColumn,
    CustomBarColumn,
    RichProgressBarTheme,
)
from rich.console import Console
from rich.progress import ProgressColumn, Task, TextColumn
from rich.text import Text

_THEME = RichProgressBarTheme(
    description="bold", progress_bar="cyan", progress_bar_finished="green", progress_bar_pulse="cyan",
    batch_progress="", time="dim", processing_speed="dim", metrics="italic", metrics_text_delimiter="  ",
)  # fmt: skip
_LOOK_S = 0.5  # reading a metric waits for the device: twice a second, not at every step


class FitClock:
    """Count training batches and images against the wall clock.

    The first batch after a start warms the device up and is left out of the speed; time spent validating is
    left out of the speed and counts for the time left.

    Args:
        now: the clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self.start(0.0)

    def start(self, total: float) -> None:
        """Begin a fit.

        Args:
            total: training batches from now to the end of the fit; infinite where nobody knows.
        """
        self.total, self.batches, self.images = total, 0, 0
        self._begun = self._now()
        self._training = 0.0  # seconds of training after the first batch
        self._since: float | None = None  # when training last went on; None while it rests

    def batch(self, images: int) -> None:
        """Count a training batch that has just ended.

        Args:
            images: how many images it had, over all processes.
        """
        now = self._now()
        if self.batches:
            self.images += images
            self._training += now - self._since if self._since is not None else 0.0
        self.batches += 1
        self._since = now

    def rest(self) -> None:
        """Say that validation begins."""
        self._since = None

    def resume(self, *, only_after_rest: bool = False) -> None:
        """Say that training goes on.

        Args:
            only_after_rest: do nothing where it never rested.
        """
        if self._since is None or not only_after_rest:
            self._since = self._now()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._now() - self._begun

    @property
    def images_per_s(self) -> float | None:
        """Training images per second; None before there are two batches."""
        return self.images / self._training if self._training > 0 else None

    @property
    def remaining(self) -> float | None:
        """Seconds left of the whole fit at the average pace so far; None where nobody knows."""
        if not self.batches or self.total == float("inf"):
            return None
        return self.elapsed / self.batches * max(0.0, self.total - self.batches)


class Clocked(L.Callback):
    """A callback with a clock of its own, kept by the trainer's hooks.

    Attributes:
        clock: the clock.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = FitClock()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.clock.start(batches_left(trainer))
        super().on_train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on after what came between two epochs."""
        self.clock.resume()
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Go on after a validation within the epoch."""
        self.clock.resume(only_after_rest=True)
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        self.clock.batch(images_in(batch) * trainer.world_size)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Rest."""
        self.clock.rest()
        super().on_validation_start(trainer, pl_module)


class ProgressBar(Clocked, RichProgressBar):
    """Show epochs, images per second, the time left of the whole fit, and the metrics.

    Where the output is no terminal (a file, a CI log) it prints one line per epoch instead.

    Args:
        refresh_rate: how often the bar is drawn, per second.
        leave: keep each epoch's finished bar on the screen.
    """

    def __init__(self, refresh_rate: int = 4, leave: bool = False) -> None:
        RichProgressBar.__init__(self, refresh_rate=refresh_rate, leave=leave, theme=_THEME)
        self.clock = FitClock()
        self._plain = False
        self._looked = 0.0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Choose between the bar and plain lines."""
        super().setup(trainer, pl_module, stage)
        if trainer.is_global_zero and self.is_enabled and not Console().is_terminal:
            self._plain = True
            self.disable()

    def configure_columns(self, trainer: L.Trainer) -> list[ProgressColumn]:
        """Return the columns: description, bar, batches, images per second, elapsed and left."""
        return [
            TextColumn("[progress.description]{task.description}"),
            CustomBarColumn(
                complete_style=self.theme.progress_bar,
                finished_style=self.theme.progress_bar_finished,
                pulse_style=self.theme.progress_bar_pulse,
            ),
            BatchesProcessedColumn(style=self.theme.batch_progress),
            _Speed(self),
            _TimeLeft(self),
        ]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the new figures."""
        self._looked = 0.0
        super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the epoch's figures."""
        self._looked = 0.0
        super().on_train_epoch_end(trainer, pl_module)
        if self._plain:
            print(self._line(trainer), flush=True)

    def _update_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        now = time.perf_counter()
        if now - self._looked >= _LOOK_S:
            self._looked = now
            super()._update_metrics(trainer, pl_module)

    def _get_train_description(self, current_epoch: int) -> str:
        of = "" if self.trainer.max_epochs in (None, -1) else f"/{self.trainer.max_epochs}"
        return f"{f'Epoch {current_epoch + 1}{of}':{len(self.validation_description)}}"

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return the metrics beside the bar: those logged with `prog_bar`, without Lightning's version."""
        return {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}

    def _line(self, trainer: L.Trainer) -> str:
        parts = [self._get_train_description(trainer.current_epoch).strip()]
        parts += _shown(trainer.callback_metrics)
        if (speed := self.clock.images_per_s) is not None:
            parts.append(f"{speed:.0f} images/s")
        parts.append(f"{hms(self.clock.elapsed)} elapsed, {hms(self.clock.remaining)} left")
        return "  ".join(parts)


class _Speed(ProgressColumn):
    max_refresh = 0.5

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar
        super().__init__()

    def render(self, task: Task) -> Text:
        training = task.id == self._bar.train_progress_bar_id
        speed = self._bar.clock.images_per_s if training else None
        words = "" if not training else "… images/s" if speed is None else f"{speed:.0f} images/s"
        return Text(words, style=str(self._bar.theme.processing_speed))


class _TimeLeft(ProgressColumn):
    max_refresh = 0.5

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar
        super().__init__()

    def render(self, task: Task) -> Text:
        if task.id == self._bar.train_progress_bar_id:
            words = f"{hms(self._bar.clock.elapsed)} elapsed, {hms(self._bar.clock.remaining)} left"
        else:
            words = f"{hms(task.elapsed)} elapsed, {hms(task.time_remaining)} left"
        return Text(words, style=str(self._bar.theme.time))


def batches_left(trainer: L.Trainer) -> float:
    """Count the training batches per process from now to the end of the fit; infinite where nobody knows.

    Args:
        trainer: a trainer that has begun to fit.
    """
    left = [float("inf")]
    per_epoch = float(trainer.num_training_batches)
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready  # of the epoch under way, on resuming
        left.append((trainer.max_epochs - trainer.current_epoch) * per_epoch - done % max(per_epoch, 1))
    if trainer.max_steps >= 0:
        left.append((trainer.max_steps - trainer.global_step) * float(trainer.accumulate_grad_batches))
    return min(left)


def images_in(batch: Any) -> int:
    """Count a batch's images; 0 for what is not a FaceVeil batch.

    Args:
        batch: what a training step was given.
    """
    image = batch.get("image") if isinstance(batch, Mapping) else None
    return 0 if image is None else len(image)


def hms(seconds: float | None) -> str:
    """Write a time as h:mm:ss; dashes where nobody knows.

    Args:
        seconds: how long.
    """
    return "-:--:--" if seconds is None else str(timedelta(seconds=round(seconds)))


def _shown(metrics: Mapping[str, Any]) -> list[str]:
    """Name the few figures that tell how training goes, in this order."""
    wanted = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "lfw/accuracy")
    return [f"{key} {float(metrics[key]):.4g}" for key in wanted if key in metrics]
