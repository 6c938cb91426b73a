from __future__ import annotations

import math
import re

import pytest

from callbacks import ProgressBar
from callbacks.progress import FitClock, hms
from tests.callbacks.tiny_run import MakeTrainer, TinyData, TinyModel


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
    clock.resume(only_after_rest=True)
    now[0] = 18.0
    clock.resume(only_after_rest=True)  # it went on at 17 already
    clock.batch(30)
    assert clock.images_per_s == 90 / 3
    assert clock.elapsed == 18
    assert clock.remaining == 18 / 4 * 6
    clock.start(math.inf)
    clock.batch(1)
    assert clock.remaining is None


def test_hms() -> None:
    assert [hms(None), hms(59.6), hms(3661)] == ["-:--:--", "0:01:00", "1:01:01"]


def test_a_line_per_epoch_without_a_terminal(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    make_trainer(ProgressBar()).fit(TinyModel({"lfw/accuracy": 0.75}), datamodule=TinyData())
    out = capsys.readouterr().out
    assert "\x1b" not in out
    first, last = out.strip().splitlines()
    figures = r"train/loss 0\.\d+  val/loss 0\.\d+  lfw/accuracy 0\.75  \d+ images/s"
    assert re.fullmatch(rf"Epoch 1/2  {figures}  0:\d\d:\d\d elapsed, 0:\d\d:\d\d left", first)
    assert re.fullmatch(rf"Epoch 2/2  {figures}  0:\d\d:\d\d elapsed, 0:00:00 left", last)


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
    make_trainer(ProgressBar()).fit(TinyModel(), datamodule=TinyData())
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().out)
    assert "Epoch 2/2" in text
    assert re.search(r"3/3\s+\d+ images/s 0:\d\d:\d\d elapsed, 0:00:00 left", text)
    assert "train/loss" in text
