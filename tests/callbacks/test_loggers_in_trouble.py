"""W&B gone in mid-run: a server, a service or a disk that fails ends no run, and one line says what is lost."""

from __future__ import annotations

import csv
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import wandb
from lightning.pytorch.loggers import CSVLogger
from wandb.sdk.mailbox import HandleAbandonedError

from lightning_app.runs import loggers
from lightning_app.runs.loggers import WandbLogger
from tests.callbacks.tiny_run import MakeTrainer, TinyData, TinyModel
from tests.callbacks.wandb_server import KEY, lines, wandb_server
from tests.command_line import write_config

linux = pytest.mark.skipif(sys.platform != "linux", reason="finds W&B's service in /proc")
pytestmark = pytest.mark.usefixtures("no_wandb_settings")


@pytest.mark.parametrize(
    "error",
    [
        wandb.Error("no"),
        ConnectionResetError("Connection lost"),
        HandleAbandonedError("gone"),
        PermissionError(13, "Permission denied"),
    ],
)
def test_trouble_in_mid_run_is_said_once_counted_and_survived(
    error: Exception, make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    class Gone:
        id, config = "x", {"a": 1}

        def fail(self, *args: Any, **kwargs: Any) -> None:
            raise error

        log = define_metric = finish = fail

    logger = WandbLogger()
    logger._experiment = Gone()  # type: ignore[assignment]
    trainer = make_trainer(logger=logger)
    trainer.fit(TinyModel(), datamodule=TinyData())
    assert trainer.global_step == 6
    first, *last = lines(caplog)
    assert first == f"W&B does not answer ({type(error).__name__}: {error}); training goes on without it"
    (count,) = last
    found = re.match(r"W&B lost (\d+) calls", count)
    assert found
    assert int(found[1]) > 6  # every step, every validation, the end


class Breaks(L.Callback):
    """Does something to W&B's service, or to its server, after the second step, and keeps going for a while."""

    def __init__(self, how: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.how = how or self._kill

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == 2:
            self.how()
        time.sleep(0.02)  # the socket to the service notices in its own time

    @staticmethod
    def _kill() -> None:
        for child in services():
            os.kill(child, signal.SIGKILL)


def services() -> list[int]:
    """The process ids of W&B's services that this process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            number, rest = stat.read_text().split(" (", 1)
            name, rest = rest.rsplit(") ", 1)
            if name.startswith("wandb-core") and int(rest.split()[1]) == os.getpid():
                found.append(int(number))
    assert found
    return found


def steps_in(path: Path, key: str = "train/loss") -> list[int]:
    with path.open() as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row[key]]


@linux
def test_a_server_that_goes_away_is_waited_for_no_longer_than_said(
    tmp_path: Path,
    make_trainer: MakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setattr(loggers, "_FINISH_S", 3.0)
        table = CSVLogger(str(tmp_path), name="", version="")
        trainer = make_trainer(Breaks(server.go_away), logger=[WandbLogger(save_dir=str(tmp_path)), table])
        trainer.fit(TinyModel({"lfw/accuracy": 0.7}), datamodule=TinyData())
        assert "UpsertBucket" in server.asked  # it was online before
        begun = time.perf_counter()
    (line,) = lines(caplog)
    found = re.fullmatch(
        r"W&B's server did not take everything within 3 s; send the rest with: wandb sync (\S+)", line
    )
    assert found
    assert steps_in(tmp_path / "metrics.csv") == list(range(6))
    wandb.teardown()  # what happens at exit
    assert time.perf_counter() - begun < 20
    (kept,) = Path(found[1]).glob("*.wandb")
    assert b"lfw/accuracy" in kept.read_bytes()


@linux
def test_a_disk_that_is_full_is_told(
    tmp_path: Path, make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    def fill() -> None:
        for child in services():  # a limit on its files' size is what it sees of a full disk, nearly
            resource.prlimit(child, resource.RLIMIT_FSIZE, (2500, 2500))

    table = CSVLogger(str(tmp_path), name="", version="")
    logger = WandbLogger(save_dir=str(tmp_path), offline=True)
    make_trainer(Breaks(fill), logger=[logger, table], epochs=10).fit(TinyModel(), datamodule=TinyData())
    _, told = lines(caplog)
    assert re.fullmatch(
        r"W&B could not write its folder \(.*file too large\); the CSV in the run folder has every metric",
        told,
    )
    assert steps_in(tmp_path / "metrics.csv") == list(range(30))


def test_a_file_that_cannot_be_closed_is_told_though_the_service_answered_before(tmp_path: Path) -> None:
    log = tmp_path / "debug-internal.log"
    run = SimpleNamespace(settings=SimpleNamespace(log_internal=str(log)))
    log.write_text('{"level":"INFO","msg":"stream: finishing up"}\n')

    def close() -> None:
        with log.open("a") as file:
            file.write('{"level":"ERROR","msg":"writer: failed closing store: no space left on device"}\n')
            file.write('{"level":"INFO","msg":"stream: all finished"}\n')

    late = threading.Timer(0.2, close)
    late.start()
    assert loggers._not_written(run) == "failed closing store: no space left on device"
    late.join()
    log.write_text('{"level":"INFO","msg":"stream: all finished"}\n')
    assert loggers._not_written(run) == ""


@linux
@pytest.mark.slow
def test_a_service_that_is_killed_ends_no_run(tmp_path: Path, drawn_root: Path) -> None:
    # a process of its own: the service is missed once more when Python exits
    broken = {"class_path": "tests.callbacks.test_loggers_in_trouble.Breaks"}
    wandb_logger = {"class_path": "lightning_app.runs.loggers.WandbLogger", "init_args": {"offline": True}}
    trainer = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "log_every_n_steps": 1,
        "callbacks": [broken],
        "logger": [wandb_logger],
    }
    config = write_config(tmp_path / "gone.yaml", drawn_root, trainer=trainer)
    home = Path(__file__).parents[2]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment |= {"PYTHONPATH": str(home), "XDG_CACHE_HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    ended = subprocess.run(
        [sys.executable, home / "main.py", "fit", "--config", config],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    said = " ".join((ended.stdout + ended.stderr).split())
    assert ended.returncode == 0, said
    assert "Traceback" not in said
    assert said.count("W&B does not answer (") == said.count("training goes on without it") == 1
    assert re.search(r"W&B lost \d+ calls; the CSV in the run folder has every metric", said)
    steps = steps_in(tmp_path / "runs" / "gone" / "metrics.csv")
    assert steps == list(range(len(steps)))
    assert len(steps) > 3
    assert (tmp_path / "runs" / "gone" / "metrics.json").exists()


def test_other_errors_are_not_swallowed() -> None:
    logger = WandbLogger()
    logger._experiment = object()  # type: ignore[assignment]
    with pytest.raises(AttributeError, match="log"):
        logger.log_metrics({"x": 1.0}, 0)
