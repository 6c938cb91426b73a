from __future__ import annotations

import math
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import DummyLogger

from callbacks import ProgressBar, RunCheckpoint
from callbacks.clock import FitClock
from datamodules.loader import TimedLoader
from lightning_app.core.progress import hms
from tests.callbacks.tiny_run import MakeTrainer, TinyData, TinyModel


class TimedData(TinyData):
    """TinyData whose loader tells how long it was waited for."""

    def train_dataloader(self) -> TimedLoader:
        batches = [{"image": self.raw[:4].float(), "index": torch.arange(4)}] * 3
        return TimedLoader(batches, batch_size=None)


def test_clock_leaves_out_warming_up_and_validating() -> None:
    now = [0.0]
    clock = FitClock(lambda: now[0])
    clock.start(total=10)
    assert (clock.images_per_s, clock.remaining) == (None, None)
    clock.resume()
    for at in (5.0, 6.0, 7.0):  # the first batch takes 5 s
        now[0] = at
        clock.batch(30)
    clock.rest()
    now[0] = 17.0  # 10 s of validation
    clock.rested()
    clock.resume(only_after_rest=True)
    now[0] = 18.0
    clock.resume(only_after_rest=True)  # it went on at 17 already
    clock.batch(30)
    assert clock.images_per_s == 90 / 3
    assert clock.elapsed == 18
    assert clock.remaining == 8 / 4 * 6
    clock.start(math.inf)
    clock.batch(1)
    assert clock.remaining is None


def test_clock_knows_what_is_waited_for() -> None:
    now = [0.0]
    clock = FitClock(lambda: now[0])
    clock.start(total=10)
    clock.resume(0.0)
    for at, waited in ((5.0, 4.0), (7.0, 4.5), (9.0, 5.0)):  # the first batch is left out
        now[0] = at
        clock.batch(8, waited)
    assert clock.data_wait_share == 1 / 4
    clock.rest()
    now[0] = 19.0
    clock.resume(8.0, only_after_rest=True)  # 3 s that were waited for while training rested
    now[0] = 21.0
    clock.batch(8, 8.0)
    assert clock.data_wait_share == 1 / 6
    clock.batch(8, None)  # a loader that does not tell
    assert clock.data_wait_share is None


def test_time_left_counts_validations_to_come() -> None:
    now = [0.0]
    clock = FitClock(lambda: now[0])
    clock.start(total=40, validations=2)  # every second epoch of ten batches
    clock.resume()
    for at in range(1, 21):
        now[0] = float(at)
        clock.batch(1)
    assert clock.remaining == 20  # no validation has been seen yet
    clock.rest()
    now[0] = 26.0
    assert clock.remaining == 20 + 6
    clock.rested()
    now[0] = 30.0  # a checkpoint is written, as will be after the other batches
    assert clock.remaining == 24 / 20 * 20 + 6


def test_hms() -> None:
    assert [hms(None), hms(59.6), hms(3661)] == ["-:--:--", "0:01:00", "1:01:01"]


def test_a_line_per_epoch_without_a_terminal(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    make_trainer(ProgressBar()).fit(TinyModel({"lfw/accuracy": 0.75}), datamodule=TimedData())
    out = capsys.readouterr().out
    assert "\x1b" not in out
    first, last = out.strip().splitlines()
    metrics = r"train/loss 0\.\d+  val/loss 0\.\d+  lfw/accuracy 0\.75  \d+ images/s  \d+% waiting  \d\.\d GB"
    assert re.fullmatch(rf"Epoch 1/2  {metrics}  0:\d\d:\d\d elapsed, 0:\d\d:\d\d left", first)
    assert re.fullmatch(rf"Epoch 2/2  {metrics}  0:\d\d:\d\d elapsed, 0:00:00 left", last)


@pytest.mark.parametrize("limits", [{"max_steps": 5, "epochs": -1}, {"max_steps": 5, "epochs": 9}])
def test_what_is_left_counts_the_whole_fit(make_trainer: MakeTrainer, limits: dict[str, int]) -> None:
    bar = ProgressBar()
    make_trainer(bar, **limits).fit(TinyModel(), datamodule=TinyData())
    assert (bar.clock.total, bar.clock.batches) == (5, 5)


def test_the_bar_shows_speed_and_time_left(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any output for a terminal
    monkeypatch.setenv("COLUMNS", "200")
    make_trainer(ProgressBar()).fit(TinyModel(), datamodule=TimedData())
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().out)
    assert "Epoch 2/2" in text
    assert re.search(r"3/3\s+\d+ images/s \d+% waiting  \d\.\d GB 0:\d\d:\d\d elapsed, 0:00:00 left", text)
    assert "train/loss" in text


def test_a_narrow_terminal_keeps_the_times(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    make_trainer(ProgressBar(), epochs=1).fit(TinyModel(), datamodule=TimedData())
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().out)
    assert re.search(r"images/s 0:\d\d:\d\d elapsed", text)
    assert "waiting" not in text


@pytest.mark.filterwarnings("ignore:.*dataloader is not resumable")  # TinyData is not, and need not be
@pytest.mark.parametrize(
    "setting",
    [
        {"epochs": 3},
        {"epochs": 3, "check_val_every_n_epoch": 2},
        {"epochs": 3, "val_check_interval": 2, "check_val_every_n_epoch": None},
        {"epochs": -1, "max_steps": 7},
        {"epochs": 3, "max_steps": 7},
        {"epochs": 3, "accumulate_grad_batches": 2},  # two steps an epoch, the second of one batch
        {"epochs": -1, "max_steps": 5, "accumulate_grad_batches": 2},
    ],
)
def test_what_is_left_after_going_on_is_what_comes(
    make_trainer: MakeTrainer, tmp_path: Path, setting: dict[str, Any]
) -> None:
    # what the clock foretold at the start against what it had counted at the end, from every checkpoint
    class Copies(DummyLogger):
        def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
            copy = tmp_path / f"{len(copies)}.ckpt"
            copies.append(Path(shutil.copy(checkpoint_callback.last_model_path, copy)))

    copies: list[Path] = []
    whole = ProgressBar()
    trainer = make_trainer(whole, RunCheckpoint(every_n_steps=1), logger=Copies(), **setting)
    trainer.fit(TinyModel(), datamodule=TinyData())
    assert whole.clock.total == whole.clock.batches
    assert whole.clock.validations == whole.clock.validations_done > 0
    assert len(copies) > 4
    for path in copies[:-1]:
        bar = ProgressBar()
        again = make_trainer(bar, RunCheckpoint(), **setting)
        again.fit(TinyModel(), datamodule=TinyData(), ckpt_path=path)
        assert again.global_step == trainer.global_step
        assert bar.clock.total == bar.clock.batches, path.name
        assert bar.clock.validations == bar.clock.validations_done, path.name


def test_a_loader_counts_only_what_is_waited_for() -> None:
    class Slow(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> int:
            now[0] += 3
            return index

    now = [0.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: now[0])
        loader = TimedLoader(Slow(), batch_size=2)
        seen = 0
        for batch in loader:
            seen += len(batch)
            now[0] += 100  # a training step
    assert (seen, loader.waited) == (4, 12)
    assert len(list(loader)) == 2  # a second epoch
