"""A run's folder belongs to one run: what `fit` replaces, goes on with, or leaves alone."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import pytest
import yaml

from callbacks import RunCheckpoint
from lightning_app.runs import lock
from tests.command_line import RunMain, refused, write_config
from tests.other_process import other_process, said


def test_another_checkpoint_and_overwrite_leave_nothing_of_the_run_before(
    fitted: Path, drawn_root: Path, tmp_path: Path, run_main: RunMain, monkeypatch: pytest.MonkeyPatch
) -> None:
    copytree(fitted / "runs/tiny", tmp_path / "runs/tiny")
    monkeypatch.setattr(RunCheckpoint, "_keep", lambda *args: None)  # as if killed before the first save
    run_main("fit", "--config", fitted / "tiny.yaml", "--ckpt_path", fitted / "runs/tiny/checkpoints/last.ckpt",
         "--overwrite", "--trainer.max_epochs", 3)  # fmt: skip
    assert not list((tmp_path / "runs/tiny").rglob("*.ckpt"))


def test_a_folder_with_a_run_is_not_overwritten_unasked(
    fitted: Path, capsys: pytest.CaptureFixture[str], run_main: RunMain
) -> None:
    with pytest.raises(SystemExit) as stop:
        run_main("fit", "--config", fitted / "tiny.yaml", "--runs", fitted / "runs")
    assert stop.value.code == 1
    assert (
        "holds a finished run already: go on with it (--ckpt_path last, a larger --trainer.max_epochs), replace it"
        in capsys.readouterr().err
    )


def test_a_saved_config_neither_overwrites_nor_goes_on_unasked(
    fitted: Path, tmp_path: Path, run_main: RunMain
) -> None:
    copytree(fitted / "runs", tmp_path / "runs")
    saved = yaml.safe_load((fitted / "runs/tiny/config.yaml").read_text())
    assert (saved["name"], saved["overwrite"], saved["ckpt_path"]) == ("tiny", False, None)
    # the name stands in it, so that `last` is found
    runs = tmp_path / "runs"
    run_main("validate", "--config", fitted / "runs/tiny/config.yaml", "--runs", runs, "--ckpt_path", "last")
    assert (runs / "tiny/metrics.validate.json").is_file()


def test_a_folder_in_which_another_process_trains_is_left_alone(
    drawn_root: Path,
    tmp_path: Path,
    run_main: RunMain,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write_config(tmp_path / "tiny.yaml", drawn_root, "ResNet")
    monkeypatch.setattr(lock, "_PATIENCE_S", 0.0)
    with other_process(tmp_path / "runs/tiny") as other:
        assert said(other) == "holds it"
        for option in ((), ("--overwrite",)):
            with pytest.raises(SystemExit):
                run_main("fit", "--config", config, *option)
            assert (
                "runs/tiny: another process is writing here (process 7 on elsewhere)"
                in capsys.readouterr().err
            )
        assert [path.name for path in (tmp_path / "runs/tiny").iterdir()] == [lock.LOCK]
        (
            tmp_path / "runs/tiny/metrics.csv"
        ).touch()  # what the other has written so far is no reason to replace it
        with pytest.raises(SystemExit):
            run_main("fit", "--config", config)
        said_then = capsys.readouterr().err
        assert "another process is writing here (process 7 on elsewhere): wait for its end" in said_then
        assert "--overwrite" not in said_then


def test_overwrite_replaces_the_run_and_nothing_else(fitted: Path, tmp_path: Path, run_main: RunMain) -> None:
    run = tmp_path / "runs" / "tiny"
    copytree(fitted / "runs" / "tiny", run)
    (run / "notes.txt").write_text("mine")
    (run / "src").mkdir()
    (run / "src" / "precious.py").write_text("mine")
    (run / "embeddings.safetensors").write_text("of the earlier run")
    run_main("fit", "--config", fitted / "tiny.yaml", "--overwrite", "--trainer.max_epochs", 1)
    assert (run / "notes.txt").read_text() == (run / "src" / "precious.py").read_text() == "mine"
    assert not (run / "embeddings.safetensors").exists()
    assert json.loads((run / "metrics.json").read_text())["run/epochs"] == 1


def test_a_fit_that_cannot_begin_leaves_the_earlier_run_whole(
    fitted: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "tiny"
    copytree(fitted / "runs" / "tiny", run)
    where = "--data.init_args.reader.init_args.root"
    refused(
        capsys, lambda: run_main("fit", "--config", fitted / "tiny.yaml", "--overwrite", where, "nowhere")
    )
    for name in ("checkpoints/last.ckpt", "metrics.json", "metrics.csv", "config.yaml", "faces.png"):
        assert (run / name).read_bytes() == (fitted / "runs/tiny" / name).read_bytes(), name


def test_going_on_from_another_run_does_not_take_over_a_folder(
    fitted: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    copytree(fitted / "runs" / "tiny", tmp_path / "runs" / "tiny")
    other = fitted / "runs/tiny/checkpoints/last.ckpt"
    message = refused(capsys, lambda: run_main("fit", "--config", fitted / "tiny.yaml", "--ckpt_path", other))
    assert "holds a finished run already" in message
    message = refused(
        capsys,
        lambda: run_main("fit", "--config", fitted / "tiny.yaml", "--ckpt_path", "last", "--overwrite"),
    )
    assert "--overwrite would remove" in message


@pytest.mark.parametrize("name", ["..", "a/b", "."])
def test_a_name_is_a_plain_name(name: str, run_main: RunMain, capsys: pytest.CaptureFixture[str]) -> None:
    assert "plain name" in refused(capsys, lambda: run_main("fit", "--config", "demo.yaml", "--name", name))
