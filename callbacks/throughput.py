"""Curves of how a long run does: images per second, waiting for data, time left, memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L
import torch

from callbacks.clock import Clocked, share
from callbacks.place import steps_done


class Throughput(Clocked):
    """Log speed, data wait, time left and memory every `log_every_n_steps` steps, to every logger.

    Keys: `time/images_per_s`, training images per second over all processes, and `time/data_wait_share`, the
    share 0 … 1 of the training time in which the next batch was waited for, both since they were last logged
    (at the end `Results` gives them for the whole fit, under the same names); `time/eta_s`, seconds left of the
    fit; `memory/rss_mb`, resident memory of this process without the readers' (Linux alone), and on a GPU
    `memory/gpu_allocated_mb` and `memory/gpu_reserved_mb`, all now and in 10⁶ bytes. The metrics are those of
    rank zero. What the clocks measure on a GPU: see `Clocked`.

    Lightning's `ThroughputMonitor` waits for the GPU after every step, cannot tell waiting for data, and warns
    where a model does not count its FLOPs; its `DeviceStatsMonitor` reads some hundred metrics twice a step
    and wants psutil. Neither is used.
    """

    def __init__(self) -> None:
        super().__init__()
        self._step = -1
        self._before = (0, 0.0, 0.0)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._step, self._before = steps_done(trainer), (0, 0.0, 0.0)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch; log where Lightning logs the losses."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        every, step = trainer.log_every_n_steps, steps_done(trainer)  # type: ignore[attr-defined]
        if not every or step % every or step == self._step or not trainer.is_global_zero:
            return
        self._step = step
        metrics = {**self._metrics(), **memory(pl_module.device)}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step - 1)  # the step that has just ended, as Lightning counts

    def _metrics(self) -> dict[str, float]:
        clock = self.clock
        images, training, waiting = self._before
        self._before = (clock.images, clock.training, clock.waiting or 0.0)
        seconds = clock.training - training
        metrics = {
            "time/images_per_s": (clock.images - images) / seconds if seconds > 0 else None,
            "time/data_wait_share": None
            if clock.waiting is None
            else share(clock.waiting - waiting, seconds),
            "time/eta_s": clock.remaining,
        }
        return {key: value for key, value in metrics.items() if value is not None}


def memory(device: torch.device) -> dict[str, float]:
    """Measure the memory held now, in MB (10⁶ bytes): this process's, and a GPU's as torch counts it.

    Args:
        device: the model's.

    Returns:
        `memory/rss_mb` where the system tells; on CUDA `memory/gpu_allocated_mb` and `memory/gpu_reserved_mb`.
    """
    metrics = {}
    pages = Path("/proc/self/statm")  # Linux; psutil, which knows the others, is no dependency of ours
    if pages.exists():
        metrics["memory/rss_mb"] = int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    if device.type == "cuda":
        metrics["memory/gpu_allocated_mb"] = torch.cuda.memory_allocated(device) / 1e6
        metrics["memory/gpu_reserved_mb"] = torch.cuda.memory_reserved(device) / 1e6
    return metrics
