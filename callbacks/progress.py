"""How far a run is: a bar with the time left of the whole fit, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import (
    BatchesProcessedColumn,
    CustomBarColumn,
    RichProgressBarTheme,
)
from rich import get_console
from rich.progress import ProgressColumn, Task, TextColumn
from rich.text import Text

from callbacks.clock import Clocked, FitClock
from callbacks.throughput import memory
from lightning_app.core.printing import safe_output
from lightning_app.core.progress import hms

_THEME = RichProgressBarTheme(
    description="bold", progress_bar="cyan", progress_bar_finished="green", progress_bar_pulse="cyan",
    batch_progress="", time="dim", processing_speed="dim", metrics="italic", metrics_text_delimiter="  ",
)  # fmt: skip
_ROOMY = 110  # columns of a terminal that has room for waiting and memory
_LOOK_S = 0.5  # reading a metric waits for the device: twice a second, not at every step


class ProgressBar(Clocked, RichProgressBar):
    """Show epochs, images per second, waiting for data, memory, the time left of the whole fit, and the metrics.

    `2% waiting` is the share of the training time so far in which the next batch was waited for; the memory is
    the GPU's as torch has allocated it, on the CPU that of this process. See `Throughput` for both as curves.
    Where the output is no terminal (a file, a CI log) it prints one line per epoch instead.

    Args:
        refresh_rate: how often the bar is drawn, per second.
        leave: keep each epoch's finished bar on the screen.
    """

    def __init__(self, refresh_rate: int = 4, leave: bool = False) -> None:
        RichProgressBar.__init__(self, refresh_rate=refresh_rate, leave=leave, theme=_THEME)
        self.clock = FitClock()
        self._loader = None
        self._device = torch.device("cpu")
        self._plain = False
        self._looked = 0.0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Choose between the bar and plain lines."""
        super().setup(trainer, pl_module, stage)
        if trainer.is_global_zero and self.is_enabled and not get_console().is_terminal:
            self._plain = True
            self.disable()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock and the bar."""
        self._device = pl_module.device
        super().on_train_start(trainer, pl_module)

    def configure_columns(self, trainer: L.Trainer) -> list[ProgressColumn]:
        """Return the columns: description, bar, batches, speed, on a wide terminal waiting and memory, times."""
        roomy = get_console().width >= _ROOMY
        return [
            TextColumn("[progress.description]{task.description}"),
            CustomBarColumn(
                complete_style=self.theme.progress_bar,
                finished_style=self.theme.progress_bar_finished,
                pulse_style=self.theme.progress_bar_pulse,
            ),
            BatchesProcessedColumn(style=self.theme.batch_progress),
            _Column(self._speed, str(self.theme.processing_speed)),
            *([_Column(self._load, str(self.theme.processing_speed))] if roomy else []),
            _Column(self._time_left, str(self.theme.time)),
        ]

    def _speed(self, task: Task) -> str:
        if task.id != self.train_progress_bar_id:
            return ""
        speed = self.clock.images_per_s
        return "… images/s" if speed is None else f"{speed:.0f} images/s"

    def _load(self, task: Task) -> str:
        return "  ".join(self._waiting_and_memory()) if task.id == self.train_progress_bar_id else ""

    def _time_left(self, task: Task) -> str:
        if task.id == self.train_progress_bar_id:
            return f"{hms(self.clock.elapsed)} elapsed, {hms(self.clock.remaining)} left"
        return f"{hms(task.elapsed)} elapsed, {hms(task.time_remaining)} left"

    def _waiting_and_memory(self) -> list[str]:
        words = []
        if (waiting := self.clock.data_wait_share) is not None:
            words.append(f"{waiting:.0%} waiting")
        held = memory(self._device)
        if (mb := held.get("memory/gpu_allocated_mb", held.get("memory/rss_mb"))) is not None:
            words.append(f"{mb / 1e3:.1f} GB")
        return words

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the new metrics."""
        self._looked = 0.0
        super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the epoch's metrics."""
        # means over an epoch are made when first asked for, by a collective: so every rank asks, not rank 0 alone
        _ = trainer.callback_metrics
        self._looked = 0.0
        super().on_train_epoch_end(trainer, pl_module)
        if self._plain:
            with safe_output():
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
        parts += self._waiting_and_memory()
        parts.append(f"{hms(self.clock.elapsed)} elapsed, {hms(self.clock.remaining)} left")
        return "  ".join(parts)


class _Column(ProgressColumn):
    """Words beside the bar of a task."""

    max_refresh = 0.5

    def __init__(self, words: Callable[[Task], str], style: str) -> None:
        self._words, self._style = words, style
        super().__init__()

    def render(self, task: Task) -> Text:
        return Text(self._words(task), style=self._style)


def _shown(metrics: Mapping[str, Any]) -> list[str]:
    """Return the few metrics that tell how training goes, in this order."""
    wanted = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "lfw/accuracy")
    return [f"{key} {float(metrics[key]):.4g}" for key in wanted if key in metrics]
