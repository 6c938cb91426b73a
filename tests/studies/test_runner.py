"""A command's runs in processes of their own end with it, are given time to save, and are kept record of."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lightning_app.studies import runner as jobs
from main import main

RUN = """
import pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
def save(number, frame):
    time.sleep(0.3)
    (here / "saved").write_text(str(number))
    sys.exit(128 + number)
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, save)
signal.signal(signal.SIGINT, signal.SIG_IGN)
(here / "ready").touch()
time.sleep(float(sys.argv[2]))
(here / "done").touch()
"""


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """As in a terminal; a shell's background ignores it."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "run.py").write_text(RUN)
    monkeypatch.setattr(jobs, "_MAIN", tmp_path / "run.py")
    return tmp_path


def signal_us(number: int, here: Path, times: int = 1) -> threading.Thread:
    def wait() -> None:
        while not (here / "ready").exists():
            time.sleep(0.01)
        for _ in range(times):
            os.kill(os.getpid(), number)
            time.sleep(0.6)  # Popen.wait takes the two of one quarter of a second for one

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_passed_on_and_the_run_saves(
    number: signal.Signals, here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.getsignal(number)
    thread = signal_us(number, here)
    with caplog.at_level(logging.WARNING, "faceveil"), pytest.raises(SystemExit) as end:
        jobs.call([str(here), "60"], here / "log.txt", "group")
    thread.join()
    assert end.value.code == 128 + number
    assert (here / "saved").read_text() == str(int(number))
    assert f"Stopped by {number.name}; the same command goes on with what is missing" in caplog.text
    assert signal.getsignal(number) == before


def test_ctrl_c_waits_for_the_run(here: Path) -> None:
    thread = signal_us(signal.SIGINT, here)
    with pytest.raises(KeyboardInterrupt):
        jobs.call([str(here), "1"], here / "log.txt", "group")
    thread.join()
    assert (here / "done").exists()


def test_ctrl_c_again_ends_it_at_once(here: Path) -> None:
    thread, begun = signal_us(signal.SIGINT, here, times=2), time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        jobs.call([str(here), "60"], here / "log.txt", "group")
    thread.join()
    assert time.monotonic() - begun < 30
    assert not (here / "done").exists()


def test_a_sigterm_leaves_a_command_by_its_finally(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tidied = []

    def command(args: list[str]) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            tidied.append(args)

    monkeypatch.setattr("main.run", command)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with pytest.raises(SystemExit) as end:
        main(["validate"])
    assert signal.signal(signal.SIGTERM, before) == signal.SIG_DFL
    assert end.value.code == 128 + signal.SIGTERM
    assert tidied == [["validate"]]
    assert capsys.readouterr().err == "stopped by SIGTERM\n"


def test_the_last_line_of_a_run_that_failed_is_told(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    (here / "run.py").write_text("import sys; print('error: no such mask'); print('more'); sys.exit(1)")
    assert not jobs.call(["fit", "--config", "x.yaml"], here / "log.txt", "group")
    assert "fit --config x.yaml failed (exit code 1): error: no such mask" in caplog.text
    assert (here / "log.txt").read_text().startswith("$ python main.py fit --config x.yaml\n")


def test_a_run_is_the_command_line(tmp_path: Path) -> None:
    """The real `main.py`; its help needs no torch, which takes seconds to import."""
    assert jobs.call(["--help"], tmp_path / "log.txt", "group")
    assert "search-mask" in (tmp_path / "log.txt").read_text()


def test_configs_are_hashed_by_what_they_say_and_checkpoints_by_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/clean/checkpoints").mkdir(parents=True)
    for name in ("runs/clean/checkpoints/last.ckpt", "own.ckpt", "other.ckpt"):
        Path(name).write_bytes(name.encode())
    Path("search.yaml").write_text("checkpoint: runs/clean\nscorer: other.ckpt\ngamma: 1.0\n")
    Path("model.yaml").write_text("{lr: 0.1}")
    args = ["fit", "--config", "search.yaml", "--model", "model.yaml", "--config=overlays/cpu.yaml"]
    first = jobs.named_files([*args, "--scorer", "own.ckpt"])
    assert {*first} == {"search.yaml", "model.yaml", "overlays/cpu.yaml", "runs/clean", "own.ckpt"}
    assert first["own.ckpt"] == hashlib.sha256(b"own.ckpt").hexdigest()
    assert first["runs/clean"] == hashlib.sha256(b"runs/clean/checkpoints/last.ckpt").hexdigest()
    assert jobs.named_files([*args, "--scorer", "gone.ckpt"])["gone.ckpt"] is None
    assert {*jobs.named_files(args)} == {*first} - {"own.ckpt"} | {"other.ckpt"}

    Path("search.yaml").write_text("# a comment\n{scorer: other.ckpt, checkpoint: runs/clean, gamma: 1.0}")
    assert jobs.named_files([*args, "--scorer", "own.ckpt"]) == first
    Path("search.yaml").write_text("{scorer: other.ckpt, checkpoint: runs/clean, gamma: 2.0}")
    Path("own.ckpt").write_bytes(b"another")
    os.utime("own.ckpt", ns=(1, 1))
    again = jobs.named_files([*args, "--scorer", "own.ckpt"])
    assert {name for name in first if first[name] != again[name]} == {"search.yaml", "own.ckpt"}
    with pytest.raises(FileNotFoundError, match=r"no config 'gone\.yaml'"):
        jobs.named_files(["fit", "--config", "gone.yaml"])


def test_checkpoints_that_classes_take_are_hashed_where_they_are_still_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A masker that was trained again under its old name has made another table's rows."""
    monkeypatch.chdir(tmp_path)
    for name in ("config", "option", "step", "clean"):
        (tmp_path / f"runs/{name}/checkpoints").mkdir(parents=True)
        (tmp_path / f"runs/{name}/checkpoints/last.ckpt").write_text(name)
    learned = {
        "class_path": "lightning_app.desensitize.LearnedMask",
        "init_args": {"checkpoint": "runs/config"},
    }
    Path("fit.yaml").write_text(
        yaml.safe_dump({"data": {"class_path": "D", "init_args": {"desensitizer": learned}}})
    )

    def named(*more: str) -> set[str]:
        return {*jobs.named_files(["fit", "--config", "fit.yaml", *more])} - {"fit.yaml"}

    assert named() == {"runs/config"}
    assert (
        jobs.named_files(["fit", "--config", "fit.yaml"])["runs/config"]
        == hashlib.sha256(b"config").hexdigest()
    )
    assert named("--data.init_args.desensitizer.init_args.checkpoint=runs/option") == {"runs/option"}
    assert named("--data.desensitizer.checkpoint", "runs/option") == {"runs/option"}
    assert named("--data.desensitizer=null") == set()
    mask = "{class_path: lightning_app.desensitize.MaskOut, init_args: {mask: a.png}}"
    assert named(f"--data.desensitizer={mask}") == set()  # the config's masker has no say any more
    part = (
        "{class_path: P, init_args: {of: {class_path: L, init_args: {checkpoint: runs/option, share: 0.25}}}}"
    )
    assert named("--data.desensitizer", part, "--model.init_from=runs/clean") == {"runs/option", "runs/clean"}
    steps = "[{class_path: L, init_args: {checkpoint: runs/step}}, {class_path: M}]"
    chain = f"{{class_path: C, init_args: {{steps: {steps}}}}}"
    assert named(f"--data.desensitizer={chain}") == {"runs/step"}
    assert jobs.named_files(["fit", "--model.teacher=runs/gone"]) == {"runs/gone": None}


def test_a_changed_file_counts_once_something_is_made(tmp_path: Path) -> None:
    record, made = tmp_path / "record.json", tmp_path / "run"

    def description(**files: str | None) -> dict[str, object]:
        return {"args": ["fit"], "files": files}

    jobs.write_record(record, made, description(config="a" * 64, scorer=None))
    jobs.write_record(
        record, made, description(config="b" * 64, scorer="c" * 64)
    )  # it failed, and was mended
    made.mkdir()
    (made / "metrics.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"config has changed: SHA-256 bbbbbbbbbbbb… then, dddddddddddd… now; .*record"
    ):
        jobs.write_record(record, made, description(config="d" * 64, scorer="c" * 64))
    jobs.write_record(record, made, description(config="b" * 64, scorer=None))  # removed to make room
    assert json.loads(record.read_text()) == description(config="b" * 64, scorer="c" * 64)

    record.write_text('{"args": ["fit"]}')  # as an earlier version wrote it
    assert jobs.is_old(record, made)
    jobs.write_record(record, made, description(config="d" * 64))
    assert record.read_text() == '{"args": ["fit"]}'
    with pytest.raises(ValueError, match="made with other settings"):
        jobs.check_record(record, made, {"args": ["validate"], "files": {}})
