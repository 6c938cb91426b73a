from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml

from callbacks import RunCheckpoint
from lightning_app.runs.folder import resolve_checkpoint
from tests.command_line import RunMain, refused
from tests.small_run import STEPS, Diary, fit, state, write_small_config


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


def steps_in(run: Path) -> dict[str, int]:
    return {path.name: step_of(path) for path in sorted((run / "checkpoints").iterdir())}


class At(L.Callback):
    """Does something once, at a hook and a number of optimiser steps."""

    done: bool

    def __init__(self, hook: str, step: int, what: Callable[[], None]) -> None:
        def act(trainer: L.Trainer, *args: Any) -> None:
            if trainer.global_step == step and not self.done:
                self.done = True
                what()

        self.done = False
        setattr(self, hook, act)


class Disk:
    """Takes checkpoints until it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full, save = False, torch.save

        def write(state: Any, file: Any) -> None:
            if self.full:
                file.write(b"PK")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            save(state, file)

        monkeypatch.setattr(torch, "save", write)

    def fill(self) -> None:
        self.full = True

    def empty(self) -> None:
        self.full = False


def test_every_epoch_leaves_the_last_and_the_one_before(tmp_path: Path) -> None:
    fit(tmp_path, checkpoint=RunCheckpoint(), max_epochs=3)
    assert steps_in(tmp_path) == {"last.ckpt": 3 * STEPS, "previous.ckpt": 2 * STEPS}
    assert os.fsencode(tmp_path) not in (tmp_path / "checkpoints/last.ckpt").read_bytes()
    fit(tmp_path / "steps", checkpoint=RunCheckpoint(every_n_steps=3), max_epochs=1)
    assert steps_in(tmp_path / "steps") == {"last.ckpt": STEPS, "previous.ckpt": 3}
    fit(tmp_path / "else", checkpoint=RunCheckpoint(dirpath=tmp_path / "there"), max_epochs=1)
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["last.ckpt"]
    fit(tmp_path / "dry", checkpoint=RunCheckpoint(), fast_dev_run=2)
    assert not (tmp_path / "dry").exists()
    with pytest.raises(ValueError, match="every_n_steps=0: give at least 1"):
        RunCheckpoint(every_n_steps=0)


def test_gradients_under_way_are_never_left_out(tmp_path: Path) -> None:
    """Of 4 batches in threes the optimiser steps after the third and the last."""
    diary = Diary()
    saved: list[int] = []

    class Told(RunCheckpoint):
        def on_save_checkpoint(self, *args: Any) -> None:
            super().on_save_checkpoint(*args)
            saved.append(sum(event[0] == "step" for event in diary.events))

    fit(tmp_path, None, diary, checkpoint=Told(every_n_steps=1), max_epochs=1, accumulate_grad_batches=3)
    assert saved == [3, 4, 4]


def test_the_command_line_sets_how_often(tmp_path: Path, run_main: RunMain) -> None:
    config = write_small_config(tmp_path, 1)
    often = ["--trainer.callbacks+=callbacks.RunCheckpoint", "--trainer.callbacks.every_n_steps=3"]
    run_main("fit", "--config", config, *often)
    assert steps_in(Path("runs/small")) == {"last.ckpt": STEPS, "previous.ckpt": 3}
    overlay = tmp_path / "overlay.yaml"
    mine = [
        {"class_path": "callbacks.RunCheckpoint", "init_args": {"every_n_steps": 3}},
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"filename": "best"}},
    ]
    overlay.write_text(yaml.safe_dump({"trainer": {"callbacks+": mine}}))
    run_main("fit", "--config", config, "--config", overlay, "--name", "two")
    assert steps_in(Path("runs/two")) == {"best.ckpt": STEPS, "last.ckpt": STEPS, "previous.ckpt": 3}
    run_main("fit", "--config", config, "--name", "none", "--trainer.enable_checkpointing", "false")
    assert not Path("runs/none/checkpoints").exists()


@pytest.mark.parametrize(
    ("hook", "number", "step", "left"),
    [
        ("on_train_batch_end", signal.SIGTERM, 2, "step"),
        ("on_train_batch_end", signal.SIGINT, 3, "step"),
        ("on_train_batch_start", signal.SIGUSR1, 4, "step"),
        ("on_train_batch_end", signal.SIGUSR1, 4, "validation"),
        ("on_validation_batch_start", signal.SIGTERM, 4, "validation"),
        ("on_validation_end", signal.SIGTERM, 4, "epoch"),
    ],
)
def test_a_signal_saves_and_ends_with_its_number(
    tmp_path: Path, hook: str, number: signal.Signals, step: int, left: str
) -> None:
    calm, stopped, resumed = Diary(), Diary(), Diary()
    fit(tmp_path / "calm", None, calm, max_epochs=2, checkpoint=RunCheckpoint())
    earlier = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1)]
    with pytest.raises(SystemExit) as end:
        fit(
            tmp_path / "run", None, stopped, At(hook, step, lambda: os.kill(os.getpid(), number)), max_epochs=2,
            checkpoint=RunCheckpoint(),
        )  # fmt: skip
    assert end.value.code == 128 + number
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1)] == earlier
    last = resolve_checkpoint("last", tmp_path / "run")
    assert step_of(last) == step + (hook == "on_train_batch_start")  # the step under way is finished
    fit(tmp_path / "run", last, resumed, max_epochs=2, checkpoint=RunCheckpoint())
    assert resumed.events[0][0] == left
    both = [*stopped.events, *resumed.events]
    if hook == "on_validation_batch_start":
        both.remove(("validation", 0, 4))  # it was broken off, and is done again
    assert both == calm.events
    assert state(last) == state(tmp_path / "calm/checkpoints/last.ckpt")


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    earlier = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a run in a shell's background ignores it
    with pytest.raises((KeyboardInterrupt, SystemExit)) as end:  # Lightning turns the first into the second
        fit(tmp_path, None, At("on_train_batch_end", 2, twice), max_epochs=1)
    assert not isinstance(end.value, SystemExit) or end.value.code == 1
    assert step_of(tmp_path / "checkpoints/last.ckpt") == 1  # the step under way is lost
    assert signal.signal(signal.SIGINT, earlier) == signal.default_int_handler


def test_a_run_that_is_over_is_not_stopped(tmp_path: Path) -> None:
    done = At("on_validation_end", STEPS, lambda: os.kill(os.getpid(), signal.SIGTERM))
    fit(tmp_path, None, done, max_epochs=1)
    assert done.done
    assert step_of(tmp_path / "checkpoints/last.ckpt") == STEPS


def test_outside_the_main_thread_signals_are_left_alone(tmp_path: Path) -> None:
    earlier, seen = signal.getsignal(signal.SIGTERM), []
    look = At("on_train_batch_end", 2, lambda: seen.append(signal.getsignal(signal.SIGTERM)))
    thread = threading.Thread(target=lambda: fit(tmp_path, None, look, max_epochs=1))
    thread.start()
    thread.join()
    assert seen == [earlier]
    assert step_of(tmp_path / "checkpoints/last.ckpt") == STEPS


def test_a_full_disk_keeps_what_is_there_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk, last = Disk(monkeypatch), tmp_path / "checkpoints/last.ckpt"
    found: dict[str, int] = {}
    fit(
        tmp_path, None, At("on_train_epoch_start", STEPS, disk.fill),
        At("on_train_epoch_start", 2 * STEPS, lambda: found.update(steps_in(tmp_path))),
        At("on_train_batch_end", 2 * STEPS + 1, disk.empty), checkpoint=RunCheckpoint(), max_epochs=3,
    )  # fmt: skip
    assert found == {"last.ckpt": STEPS}
    assert steps_in(tmp_path) == {"last.ckpt": 3 * STEPS, "previous.ckpt": STEPS}
    (said,) = [record for record in caplog.records if record.levelname == "ERROR"]
    message = said.getMessage()
    assert f"checkpoint of step {2 * STEPS} could not be written to {last.parent}" in message
    assert os.strerror(errno.ENOSPC) in message
    assert "bytes free" in message


def test_without_its_weights_a_run_does_not_end_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_small_config(tmp_path, 2)
    disk = Disk(monkeypatch)
    on_train_start = RunCheckpoint.on_train_start

    def full_later(self: RunCheckpoint, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.callbacks.append(At("on_train_epoch_start", STEPS, disk.fill))  # type: ignore[attr-defined]
        on_train_start(self, trainer, pl_module)

    monkeypatch.setattr(RunCheckpoint, "on_train_start", full_later)
    message = refused(capsys, lambda: run_main("fit", "--config", config))
    assert message.startswith(f"error: the last checkpoint of step {2 * STEPS} could not be written to ")
    assert "make room and go on with --ckpt_path last" in message
    assert steps_in(Path("runs/small")) == {"last.ckpt": STEPS}
    assert not Path("runs/small/metrics.json").exists()
    disk.empty()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    run_main("fit", "--config", config, "--ckpt_path", "last")
    assert steps_in(Path("runs/small")) == {"last.ckpt": 2 * STEPS, "previous.ckpt": STEPS}


def test_what_killed_writes_leave_is_removed_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in (".next.ckpt.ab12.tmp", "next.ckpt", "notes.tmp", "best.ckpt"):
        (folder / name).write_text("")
    fit(tmp_path, max_epochs=1, checkpoint=RunCheckpoint())
    assert {path.name for path in folder.iterdir()} == {"notes.tmp", "best.ckpt", "last.ckpt"}


def test_a_damaged_checkpoint_never_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    fit(tmp_path, checkpoint=RunCheckpoint(every_n_steps=3), max_epochs=1)
    last = tmp_path / "checkpoints/last.ckpt"
    whole = state(last)
    last.write_bytes(last.read_bytes()[:-100])
    saved: list[dict[str, int]] = []

    class Told(RunCheckpoint):
        def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            saved.append(steps_in(tmp_path))
            super().on_train_end(trainer, pl_module)

    fit(tmp_path, resolve_checkpoint("last", tmp_path), checkpoint=Told(), max_epochs=1)
    assert saved == [{"last.ckpt": STEPS, "previous.ckpt": 3}]
    assert state(last) == whole


def test_a_finished_run_says_that_nothing_was_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(tmp_path, max_epochs=1)
    assert "Nothing was left" not in caplog.text
    fit(tmp_path, resolve_checkpoint("last", tmp_path), max_epochs=1)
    assert "Nothing was left to train" in caplog.text
