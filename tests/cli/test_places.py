"""A wrong name in a config is told of by file and line, with the nearest right name."""

from __future__ import annotations

from pathlib import Path

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from lightning_app.cli.fit_config import read_fit_settings
from lightning_app.cli.parse_error import _dests, the_reason
from lightning_app.cli.places import FILES
from tests.command_line import RunMain

LFW = "callbacks.LFWVerification"
CHAIN = "lightning_app.desensitize.Chain, init_args: {steps: [{class_path: lightning_app.desensitize.MaskOut"
CASES = {
    "trainer: {max_epoch: 1}": "did you mean 'trainer.max_epochs'?",
    "trainr: {max_epochs: 1}": "did you mean 'trainer.max_epochs'?",
    "model: {class_path: lightning_app.models.ResNetFMS}": "did you mean 'ResNetFSM'?",
    "model: {class_path: lightning_ap.models.ResNet}": "did you mean 'lightning_app'?",
    "model: {class_path: lightning_app.models.ResNetFSM, init_args: {insertion_point: []}}": "'insertion_points'?",
    "model: {class_path: lightning_app.models.ResNet, init_arg: {lr: 1}}": "did you mean 'init_args'?",
    "model: {class_path: lightning_app.models.ResNet, init_args: {lr: fast}}": "fast is no float",
    f"model: {{class_path: {LFW}}}": f"Import path {LFW} does not correspond to a subclass of LightningModule",
    "data: {class_path: datamodules.FaceDatamodule}": "did you mean 'FaceDataModule'?",
    "data: {init_args: {num_worker: 2}}": "did you mean 'num_workers'?",
    "data: {reader: {class_path: datamodules.FolderFace}}": "data.reader: datamodules has no 'FolderFace'; did you "
    "mean 'FolderFaces'?",
    "data: {reader: {class_path: datamodules.FolderFaces, init_args: {rot: x}}}": "did you mean 'root'?",
    f"data: {{desensitizer: {{class_path: {CHAIN}, init_args: {{msk: x}}}}]}}}}}}": "did you mean 'mask'?",
    f"trainer: {{callbacks: [{{class_path: callbacks.DSSIMReport}}, {{class_path: {LFW[:-1]}}}]}}":
        "did you mean 'LFWVerification'?",
    f"trainer: {{callbacks: [{{class_path: {LFW}, init_args: {{rot: x}}}}]}}": "did you mean 'root'?",
    "trainer: {max_epochs: many}": "trainer.max_epochs: Expected a int",
}  # fmt: skip


def _line(error: ArgumentError, parser: ArgumentParser) -> str:
    return FILES.place(str(error)) + the_reason(str(error), [*_dests(parser)])


@pytest.mark.parametrize("config", CASES)
def test_file_line_and_nearest_name(config: str, parser: ArgumentParser, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"# {config}\nseed_everything: 1\n{config}\n")
    with pytest.raises(ArgumentError) as raised:
        parser.parse_args(["--config", str(file)])
    said = _line(raised.value, parser)
    assert said.startswith(f"{file}, line 3: ")
    assert said.endswith(CASES[config])
    assert "\n" not in said


def test_the_later_of_two_configs_is_named(parser: ArgumentParser, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("trainer: {max_epochs: 1}\n")
    (tmp_path / "two.yaml").write_text("\n\ntrainer:\n  max_epoch: 1\n")
    with pytest.raises(ArgumentError) as raised:
        parser.parse_args(["--config", str(tmp_path / "one.yaml"), "--config", str(tmp_path / "two.yaml")])
    assert _line(raised.value, parser).startswith(f"{tmp_path / 'two.yaml'}, line 4: ")


def test_nothing_of_an_earlier_command_line_is_named(parser: ArgumentParser, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("trainer: {no_such: 1}\n")
    for args in (["--config", str(tmp_path / "mine.yaml")], ["--trainer.no_such", "1"]):
        with pytest.raises(ArgumentError) as raised:
            parser.parse_args(args)
    assert FILES.place(str(raised.value)) == ""


def test_no_yaml(parser: ArgumentParser, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("trainer: {max_epochs: 1\ndata: 1\n")
    with pytest.raises(ArgumentError) as raised:
        parser.parse_args(["--config", str(tmp_path / "mine.yaml")])
    assert _line(raised.value, parser).startswith(f"{tmp_path / 'mine.yaml'}: Problems parsing config")


def test_the_terminal_shows_one_line(
    run_main: RunMain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("output: x\nreader: {class_path: datamodules.DrawFaces}\n")
    with pytest.raises(SystemExit) as ended:
        run_main("desensitize", "--config", tmp_path / "mine.yaml")
    assert ended.value.code == 2
    place = f"error: {tmp_path / 'mine.yaml'}, line 2: reader: "
    assert capsys.readouterr().err == f"{place}datamodules has no 'DrawFaces'; did you mean 'DrawnFaces'?\n"


def test_what_a_study_reads_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: {init_args: {num_worker: 2}}\n")
    with pytest.raises(ValueError, match=r"mine\.yaml, line 1: data: .* has no 'num_worker'; did you mean"):
        read_fit_settings(["--config", str(tmp_path / "mine.yaml")])
