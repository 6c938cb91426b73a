"""What a new user meets first: help, version, a command without a config, paths that are not there, failed starts."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lightning_app.cli.surroundings import set_up
from lightning_app.commands import COMMANDS, HELP, LIGHTNING
from lightning_app.core.printing import counted, searched
from lightning_app.core.version import version
from lightning_app.runs.state import read_state
from tests import warm
from tests.command_line import RunMain, refused, write_config

TOP = Path(__file__).resolve().parents[2]


def cold(*args: str) -> subprocess.CompletedProcess[str]:
    """Run Python as a user does: without anything imported beforehand."""
    return subprocess.run(
        [warm.COLD, *args], cwd=TOP, capture_output=True, text=True, timeout=280, check=False,
        env=os.environ | {"PYTHONPATH": str(TOP)},
    )  # fmt: skip


@pytest.mark.slow
def test_the_help_that_was_written_down_is_the_parsers() -> None:
    """Where it is not: `python -m lightning_app.commands.write_help`."""
    done = cold("-m", "lightning_app.commands.write_help", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_has_its_help() -> None:
    assert {path.stem for path in HELP.iterdir()} == {*LIGHTNING, *COMMANDS}
    for path in HELP.iterdir():  # jsonargparse's own has a backspace in it
        assert path.read_text().replace("\n", "").isprintable(), path


def test_what_lightning_says_of_chips_that_are_not_there_is_not_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    set_up()
    said = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with caplog.at_level(logging.INFO, said.name):
        for text in ("GPU available: False, used: False", "TPU available: False, using: 0 TPU cores"):
            said.info(text)
        said.info("GPU available: True (cuda), used: True")
    assert caplog.messages == ["GPU available: True (cuda), used: True"]


@pytest.mark.parametrize("args", [["fit", "--help"], ["audit", "-h"], ["--version"], []], ids=" ".join)
def test_help_and_version_need_no_torch(args: list[str]) -> None:
    """In processes of their own: what is imported there is the point."""
    code = (
        "import sys, resource; from main import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n"
        "    print('torch' in sys.modules, resource.getrusage(resource.RUSAGE_SELF).ru_utime, file=sys.stderr)"
    )
    done = cold("-c", code, *args)
    loaded, seconds = done.stderr.split()[-2:]
    assert loaded == "False"
    assert float(seconds) < 1
    words = {"fit": "--trainer.max_epochs", "audit": "RELEASED_DIR", "--version": version(), "": "draw-faces"}
    assert words[args[0] if args else ""] in done.stdout


def test_the_installed_program_names_itself(
    run_main: RunMain, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever installed `faceveil` has no main.py to call."""
    monkeypatch.setattr(sys, "argv", ["/opt/venv/bin/faceveil", "fit"])
    said = refused(capsys, lambda: run_main("fit"))
    with pytest.raises(SystemExit):
        run_main("audit", "--help")
    said += capsys.readouterr().out
    run_main()
    said += capsys.readouterr().out
    assert "usage: faceveil audit" in said
    assert "faceveil COMMAND --help" in said
    assert "main.py" not in said


def test_without_a_config_it_says_what_to_give(
    run_main: RunMain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in LIGHTNING:
        said = refused(capsys, lambda command=command: run_main(command))  # type: ignore[misc]
        assert f"{command} needs a config: give --config NAME.yaml" in said
        assert "fit --config demo.yaml" in said
    said = refused(capsys, lambda: run_main("fit", "--trainer.max_epochs", 1))
    assert "fit needs a config" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (FileNotFoundError("root=faces: no such folder"), "no such folder (looked in /work)"),
        (FileNotFoundError("mask a b/m.png: no such file"), "no such file (looked in /work)"),
        (FileNotFoundError("root=/data/faces: no such folder"), "no such folder"),
        (FileNotFoundError("no config 'x' in /work nor in configs"), "nor in configs"),
        (ValueError("size: 3"), "size: 3"),
    ],
)
def test_of_a_relative_path_the_folder_is_named(error: Exception, ends: str) -> None:
    assert searched(error, "/work").endswith(ends)
    wrapped = ValueError(str(error))
    wrapped.__cause__ = error
    assert searched(wrapped, "/work").endswith(ends)


def test_the_command_line_names_the_folder_searched(
    drawn_root: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "a.yaml", drawn_root)
    said = refused(
        capsys, lambda: run_main("fit", "--config", config, "--data.reader.init_args.root", "none")
    )
    assert "root=none: no such folder" in said
    assert f"(looked in {tmp_path})" in said


STARTS_THAT_FAIL: dict[str, list[object]] = {
    "root=none: no such folder": ["--data.reader.init_args.root", "none"],
    "is more than the": ["--data.global_batch_size", 4000],
    "pairs=none.txt: no such file": ["--trainer.callbacks.init_args.pairs", "none.txt"],
    "monitors nothing": ["--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping",
                         "--trainer.callbacks.init_args.monitor", "nothing"],
}  # fmt: skip


def test_a_failed_start_leaves_no_folder(
    drawn_root: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "a.yaml", drawn_root)
    content = yaml.safe_load(config.read_text())
    content["trainer"]["callbacks"].reverse()  # the verification last: the command line changes the last one
    config.write_text(yaml.safe_dump(content))
    for words, args in STARTS_THAT_FAIL.items():
        said = refused(capsys, lambda args=args: run_main("fit", "--config", config, *args))  # type: ignore[misc]
        assert words in said
        assert not (tmp_path / "runs" / "a").exists()
    # a folder that was there stays
    mine = tmp_path / "runs" / "a"
    mine.mkdir(parents=True)
    (mine / "notes.txt").write_text("mine")
    refused(capsys, lambda: run_main("fit", "--config", config, "--data.global_batch_size", 4000))
    assert (mine / "notes.txt").read_text() == "mine"


def test_a_start_that_fails_in_its_first_step_can_be_given_again(
    drawn_root: Path, tmp_path: Path, run_main: RunMain, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_app.models.base import Recogniser

    config = write_config(tmp_path / "a.yaml", drawn_root)
    fits = ("fit", "--config", config, "--trainer.max_epochs", 1, "--trainer.callbacks", "null")
    steps: Callable[..., object] = Recogniser.training_step
    with monkeypatch.context() as patch:
        patch.setattr(Recogniser, "training_step", lambda *rest: (_ for _ in ()).throw(ValueError("too hot")))
        with pytest.raises(SystemExit):
            run_main(*fits)
    assert not (tmp_path / "runs" / "a").exists()
    assert Recogniser.training_step is steps
    run_main(*fits)
    assert read_state(tmp_path / "runs" / "a") == ("finished", "")


def test_a_fit_that_fails_later_says_so(
    drawn_root: Path, tmp_path: Path, run_main: RunMain, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from lightning_app.models.base import Recogniser

    step: Callable[..., object] = Recogniser.training_step

    def fails(self: Recogniser, batch: object, batch_idx: int) -> object:
        if self.global_step:
            raise ValueError("too hot\nfor the second step")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Recogniser, "training_step", fails)
    config = write_config(tmp_path / "a.yaml", drawn_root)
    with pytest.raises(SystemExit):
        run_main("fit", "--config", config, "--trainer.callbacks", "null")
    assert read_state(tmp_path / "runs" / "a") == ("failed", "too hot for the second step")
    capsys.readouterr()
    run_main("runs", "--json")
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["state"], one["reason"]) == ("failed", "too hot for the second step")


def test_no_line_of_the_summary_is_of_flops(
    drawn_root: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "a.yaml", drawn_root)
    run_main("fit", "--config", config, "--trainer.callbacks", "null", "--trainer.max_epochs", 1)
    said = capsys.readouterr().out
    assert "FLOPs" not in said
    assert "backbone" in said
    assert "all of them trained" in said


def test_one_is_no_plural() -> None:
    assert [counted(n, "shard") for n in (0, 1, 2)] == ["0 shards", "1 shard", "2 shards"]
