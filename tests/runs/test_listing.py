"""The runs there are: state, date, figures."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from lightning_app.report.curves import curves_chart, read_curves
from lightning_app.runs import lock
from lightning_app.runs.folder import forget_start, read_log
from lightning_app.runs.listing import COLUMNS, list_runs, row_of
from lightning_app.runs.state import STATE, read_state, write_state
from tests.command_line import RunMain, refused


def run_folder(root: Path, name: str, metrics: dict[str, object] | None = None, state: str = "") -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("a: 1\n")
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    if state:
        (folder / STATE).write_text(json.dumps({"state": state}))
    return folder


def test_how_a_run_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics: dict[str, object] = {"run/epochs": 3}
    states = {
        "old": ("finished", run_folder(tmp_path, "old", metrics)),
        "begun": ("unfinished", run_folder(tmp_path, "begun")),
        "killed": ("killed", run_folder(tmp_path, "killed", metrics, "running")),
        "done": ("finished", run_folder(tmp_path, "done", metrics, "finished")),
        "odd": ("unfinished", run_folder(tmp_path, "odd", None, "of no kind")),
    }
    for state, folder in states.values():
        assert read_state(folder) == (state, "")
    held = run_folder(tmp_path, "held", None, "running")
    lock.hold(held)
    assert read_state(held) == ("running", "")
    lock.release(held)
    assert read_state(held) == ("killed", "")
    assert not (held / lock.LOCK).exists()
    write_state(held, "failed", "a\nb" + "c" * 999)
    state, reason = read_state(held)
    assert (state, reason[:5], len(reason)) == ("failed", "a bcc", 300)
    (held / STATE).write_text("{")
    assert read_state(held) == ("unfinished", "")


@pytest.mark.parametrize("trained", [False, True])
def test_a_validation_alone_is_no_fit(trained: bool, tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "looked", {"lfw/accuracy": 0.7})
    (folder / "metrics.validate.json").write_text("{}")
    if trained:
        (folder / "checkpoints").mkdir()
    (found,) = list_runs(tmp_path)
    assert found.what == ("fit" if trained else "validate")


def test_a_damaged_run_hides_no_other(tmp_path: Path) -> None:
    run_folder(tmp_path, "good", {"run/epochs": 3, "lfw/accuracy": 0.9}, "finished")
    for number, damaged in enumerate((
        '{"run/epochs": NaN, "lfw/accuracy": NaN, "privacy/dssim": Infinity}', '{"run/epochs": 1e999}',
        '{"lfw/accuracy": 1' + "0" * 400 + "}", "[1]", "{", "", '{"run/epochs": "3", "lfw/accuracy": null}',
    )):  # fmt: skip
        (run_folder(tmp_path, f"bad{number}") / "metrics.json").write_text(damaged)
    failed = run_folder(tmp_path, "failed")
    (failed / STATE).write_text('{"state": "failed", "reason": ["a", 1]}')
    (run_folder(tmp_path, "folder") / STATE).mkdir()
    found = {run.name: run for run in list_runs(tmp_path)}
    assert len(found) == 10
    assert found["good"].accuracy == {"lfw": 0.9}
    assert all(not run.accuracy and run.epochs is None for name, run in found.items() if name != "good")
    assert [len(row_of(run)) for run in found.values()] == [len(COLUMNS)] * 10
    json.dumps([run.as_dict() for run in found.values()], allow_nan=False)


def test_a_list_of_runs(tmp_path: Path) -> None:
    one = run_folder(tmp_path, "one", {
        "run/model": "ResNetFSM", "run/epochs": 14, "lfw/accuracy": 0.91, "lfw/accuracy_low": 0.9,
        "lfw/accuracy_s2": 0.5,
        "own/accuracy": 0.8, "val/accuracy": 0.3, "privacy/dssim": 0.7, "privacy/mask_ratio": 0.76,
    }, "finished")  # fmt: skip
    two = run_folder(tmp_path, "two")
    (two / "compare.csv").write_text("a\n")
    (tmp_path / "notes").mkdir()
    (tmp_path / "file.txt").write_text("no run")
    for age, folder in ((50, two), (10, one)):
        for file in folder.iterdir():
            os.utime(file, (1.7e9 - age, 1.7e9 - age))
    first, second = list_runs(tmp_path)
    assert (first.name, first.what, first.model, first.epochs) == ("one", "fit", "ResNetFSM", 14)
    assert first.accuracy == {"lfw": 0.91, "own": 0.8}
    assert (first.mask_ratio, first.dssim) == (0.76, 0.7)
    assert first.changed == "2023-11-14T22:13:10+00:00"
    assert (second.what, second.state, second.accuracy) == ("compare", "unfinished", {})
    row = row_of(first)
    assert len(row) == len(COLUMNS)
    assert row[1:3] + row[5:] == ["fit ResNetFSM", "finished", "lfw 0.9100, own 0.8000", "0.7600", "0.7000"]


def test_the_command(run_main: RunMain, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "runs=runs: no such folder" in refused(capsys, lambda: run_main("runs"))
    (tmp_path / "runs").mkdir()
    run_main("runs")
    assert "no runs in runs yet" in capsys.readouterr().out
    run_folder(tmp_path / "runs", "mine", {"lfw/accuracy": 0.5}, "stopped")
    run_folder(tmp_path / "runs", "spoilt").joinpath("metrics.json").write_text("{")
    run_main("runs")
    said = capsys.readouterr().out
    assert "mine" in said
    assert "stopped" in said
    assert "dSSIM" not in said  # no run has one
    assert {"accuracy", "0.5000"} <= set(said.split())  # no cell is broken at 80 columns
    assert re.search(r"\s\d{4}-\d\d-\d\dT\d\d:\d\d\s", said)  # nor the date
    why = "a reason of many words, which would fill a narrow column of the table from top to bottom"
    write_state(tmp_path / "runs/spoilt", "failed", why)
    run_main("runs")
    assert f"spoilt: {why}" in capsys.readouterr().out.splitlines()
    run_main("runs", "--json")
    assert {run["name"] for run in json.loads(capsys.readouterr().out)} == {"mine", "spoilt"}


def test_a_start_is_forgotten_with_what_it_wrote_alone(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "a", None, "running")
    lock.hold(folder)
    (folder / "mine.txt").write_text("mine")
    forget_start(folder)
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    (folder / "mine.txt").unlink()
    lock.hold(folder)
    forget_start(folder)
    assert not folder.exists()


def test_curves_over_all_starts(tmp_path: Path) -> None:
    head = "epoch,lfw/accuracy,lfw/accuracy_s2,step,train/loss,train/mean_loss\n"
    (tmp_path / "metrics.1.csv").write_text(head + "0,0.5,0.1,3,2.5,2.0\n1,0.6,0.1,6,1.5,1.0\n")
    (tmp_path / "metrics.csv").write_text(head + "1,0.7,0.1,6,1.4,0.9\n2,0.8,0.1,9,1.3,0.8\n,,,9,,\n")
    curves = read_curves(tmp_path)
    assert curves == {
        "lfw/accuracy": {1: 0.5, 2: 0.7, 3: 0.8},
        "train/mean_loss": {1: 2.0, 2: 0.9, 3: 0.8},
    }
    picture = curves_chart(curves, "mine")
    assert picture is not None
    assert picture.size == (760, 300)
    alone = curves_chart({"train/loss": {1: 2.0}})
    assert alone is not None
    assert alone.width < picture.width
    assert curves_chart(read_curves(tmp_path / "none")) is None


def test_a_run_that_was_stopped_shows_what_it_had_logged(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "stopped", None, "stopped")
    (folder / "metrics.csv").write_text("epoch,lfw/accuracy,train/loss\n0,0.6,5.0\n1,0.7,\n2,,3.0\n")
    damaged = run_folder(tmp_path, "damaged", None, "stopped")
    (damaged / "metrics.csv").write_bytes(b"\xff\xfe\0")
    found = {run.name: run.accuracy for run in list_runs(tmp_path)}
    assert found == {"stopped": {"lfw": 0.7}, "damaged": {}}


@pytest.mark.skipif(os.name != "posix", reason="pipes and sparse files are POSIX's")
@pytest.mark.parametrize("name", ["metrics.json", "metrics.csv", STATE])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_pipe_or_a_sparse_file_keeps_no_list_waiting(name: str, sparse: bool, tmp_path: Path) -> None:
    def late(*_: object) -> None:
        raise AssertionError("a pipe is waited for")

    run_folder(tmp_path, "good", {"run/epochs": 3})
    folder = run_folder(tmp_path, "evil")
    (folder / name).unlink(missing_ok=True)
    if sparse:
        with (folder / name).open("wb") as file:
            file.truncate(10**12)  # it takes no room on a disk
    else:
        os.mkfifo(folder / name)
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    try:
        found = {run.name: run for run in list_runs(tmp_path)}
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert found["good"].epochs == 3
    assert (found["evil"].epochs, found["evil"].accuracy) == (None, {})


def test_a_log_of_somebody_else_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"metrics\.csv: is no file"):
        [*read_log(path)]
    path.unlink()
    with path.open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(
        ValueError, match=r"metrics\.csv: is larger than 128 MB, which no such file of ours is"
    ):
        [*read_log(path)]
    path.write_text("step,train/loss\r\n1,0.5\r\n", newline="")
    assert [*read_log(path)] == [{"step": "1", "train/loss": "0.5"}]
