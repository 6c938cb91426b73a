from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor

from callbacks import Throughput
from callbacks.clock import FitClock
from callbacks.throughput import memory
from lightning_app.core.batch import Batch
from tests.callbacks.tiny_run import MakeTrainer, TinyData, TinyModel


class Keeps(DummyLogger):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def of(self, key: str) -> dict[int | None, float]:
        return {step: row[key] for step, row in self.rows if key in row}


class Timed(TinyModel):
    """A step takes a second, a validation ten; a batch comes after a quarter of a second."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.now += 1.0
        return super().training_step(batch, batch_idx)

    def on_validation_start(self) -> None:
        self.now += 10.0


class Loader:
    """Four batches of four images."""

    def __init__(self, model: Timed) -> None:
        self.model, self.waited = model, 0.0

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Any:
        for _ in range(4):
            self.model.now += 0.25
            self.waited += 0.25
            yield {"image": torch.zeros(4, 3, 8, 8), "index": torch.arange(4)}


def test_speed_waiting_and_time_left_are_curves(make_trainer: MakeTrainer) -> None:
    model, keeps, watch = Timed(), Keeps(), Throughput()
    watch.clock = FitClock(lambda: model.now)
    trainer = make_trainer(watch, logger=keeps, epochs=4, check_val_every_n_epoch=2)
    trainer.fit(model, Loader(model), TinyData().val_dataloader())
    assert set(keeps.of("time/eta_s")) == set(keeps.of("train/loss")) == set(range(16))
    speed, waiting, left = (keeps.of(f"time/{key}") for key in ("images_per_s", "data_wait_share", "eta_s"))
    assert set(speed) == set(range(1, 16))  # the first batch warms up
    # of the first batch of an epoch, the loader's work lies before the hook that begins the epoch's clock or after
    assert all(speed[step] == 4 / 1.25 and waiting[step] == 0.25 / 1.25 for step in (1, 2, 3, 5, 9, 13))
    # two validations: none seen for the first eight steps, then ten seconds for the one to come
    assert [left[step] for step in (0, 7, 11, 15)] == [15 * 1.25, 8 * 1.25, 4 * 1.25 + 10, 10]
    held = memory(torch.device("cpu"))["memory/rss_mb"]
    assert max(keeps.of("memory/rss_mb").values()) == pytest.approx(held, rel=0.5)


def test_nothing_more_often_than_log_every_n_steps(make_trainer: MakeTrainer) -> None:
    keeps = Keeps()
    trainer = make_trainer(Throughput(), logger=keeps, accumulate_grad_batches=2, epochs=4)
    trainer.log_every_n_steps = 3  # type: ignore[attr-defined]
    trainer.fit(TinyModel(), datamodule=TinyData())  # 2 steps an epoch
    assert set(keeps.of("time/eta_s")) == {2, 5}
    assert "time/data_wait_share" not in {
        key for _, row in keeps.rows for key in row
    }  # TinyData does not tell


def test_memory_is_what_the_process_holds() -> None:
    device = torch.device("cpu")
    before = memory(device)["memory/rss_mb"]
    held = mmap.mmap(-1, 40_000_000)  # pages of its own: the allocator may have freed ones at hand
    for at in range(0, len(held), mmap.PAGESIZE):
        held[at] = 1
    assert memory(device)["memory/rss_mb"] - before == pytest.approx(40, abs=8)
    held.close()
