"""A wrong name in a config is told of by file and line, with the nearest right name."""

from __future__ import annotations

from pathlib import Path

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from lightning_app.cli.configs import find_config
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
    "trainer: {max_epochs: many}": "trainer.max_epochs: many is no int",
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


@pytest.mark.parametrize(
    "option", ["--model.init_args.lrr=0.1", "--model.lrr=0.1", "--data.init_args.num_worker=2"]
)
def test_a_wrong_name_of_the_command_line_is_no_files(
    option: str, parser: ArgumentParser, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "model: {class_path: lightning_app.models.ResNet, init_args: {lr: 0.1}}\ndata: {init_args: {seed: 1}}\n"
    )
    with pytest.raises(ArgumentError) as raised:
        parser.parse_args(["--config", str(file), option])
    said = _line(raised.value, parser)
    assert "mine.yaml" not in said
    assert "did you mean" in said


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


FORMS = {
    "": " is empty: a config is a mapping, such as `trainer: {max_epochs: 3}`",
    "# trainer: {max_epochs: 1}\n": " is empty: a config is a mapping, such as `trainer: {max_epochs: 3}`",
    "- a\n": " holds a list: a config is a mapping, such as `trainer: {max_epochs: 3}`",
    "trainer: {max_epochs: 1\ndata: 1\n": ", line 2: is no YAML: expected ',' or '}', but got ':'",
    "trainer:\n\tmax_epochs: 1\n": ", line 2: is no YAML: found character '\\t' that cannot start any token (YAML "
    "takes blanks before a key, no tabs)",
    "trainer: {max_epochs: 1}\nname: a\ntrainer:\n  devices: 1\n": ", line 3: 'trainer' stands a second time, after "
    "line 1: keep one of them",
    f"trainer:\n  callbacks:\n  - class_path: {LFW}\n    init_args:\n      root: a\n      root: b\n": ", line 6: "
    "'root' stands a second time, after line 5: keep one of them",
    "model:\n  class_path: lightning_app.models.ResNet\n  init_args:\n": ", line 3: init_args is null: it takes "
    "arguments, such as `init_args: {size: 112}`",
    "model:\n  class_path: 3\n": ", line 2: class_path is '3': it takes a name, such as callbacks.LFWVerification",
    "model: {class_path: lightning_app.models.ResNet, init_arg: {lr: 1}}\n": ", line 1: 'init_arg' stands beside "
    "class_path; did you mean 'init_args'?",
    f"trainer:\n  callbacks:\n  - class_path: {LFW}\n    root: x\n": ", line 4: 'root' stands beside class_path; "
    "arguments stand under init_args",
    "5: x\n": ", line 1: '5' is no name of a key: keys are text",
    "trainer: [1]\n": ": trainer: [1] is no mapping; it takes keys, such as `trainer: {KEY: VALUE}`",
    "trainr: {}\n": ": there is no 'trainr'; did you mean 'trainer'?",
    "trainer: {devcies: {}}\n": ": there is no 'trainer.devcies'; did you mean 'trainer.devices'?",
    "name: *a\n": ", line 1: is no YAML: found undefined alias 'a'",
}


@pytest.mark.parametrize("config", FORMS)
def test_the_form_of_a_config(config: str, parser: ArgumentParser, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(config)
    with pytest.raises(ValueError, match=r"mine\.yaml") as raised:
        parser.parse_args(["--config", str(file)])
    assert str(raised.value) == f"{file}{FORMS[config]}"


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_config_in_another_encoding(encoding: str, parser: ArgumentParser, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: Müller\n", encoding)
    with pytest.raises(ValueError, match=r"mine\.yaml is not UTF-8 text \(.*\): save it as UTF-8$"):
        parser.parse_args(["--config", str(tmp_path / "mine.yaml")])


VALUES = {
    "data:\n  init_args:\n    num_workers: 2\n    global_batch_size: [1, 2]\n": (4, "data.global_batch_size: "
    "datamodules.FaceDataModule: [1, 2] is no int"),
    "data:\n  init_args:\n    num_workers: 2\n    global_batch_size: true\n": (4, "data.global_batch_size: "
    "datamodules.FaceDataModule: True is no int"),
    "data:\n  init_args:\n    num_workers: 2\n    global_batch_size: null\n": (4, "data.global_batch_size: null is no "
    "value for it; leave the key out for its default, 64"),
    "model:\n  class_path: lightning_app.models.ResNet\n  init_args:\n    lr:\n": (4, "model.lr: null is no value for "
    "it; leave the key out for its default, 0.01"),
    "data:\n  init_args:\n    reader: 5\n": (3, "data.reader: 5 is no FaceReader; give a class_path and its init_args"),
    "name: a\ntrainer:\n  callbacks:\n  - 5\n": (4, "trainer.callbacks: 5 is no Callback; give a class_path and its "
    "init_args"),
    "name: a\ntrainer:\n  callbacks:\n  - null\n": (3, "trainer.callbacks: None is no Callback; give a class_path and "
    "its init_args"),
    # what is wrong stands in another place, too, where it is right
    "data:\n  reader: {class_path: datamodules.FolderFaces, init_args: {root: x}}\ntrainer:\n  callbacks:\n"
    "  - class_path: datamodules.FolderFaces\n": (5, "trainer.callbacks: Import path datamodules.FolderFaces does not "
    "correspond to a subclass of Callback"),
}  # fmt: skip


@pytest.mark.parametrize("config", VALUES)
def test_a_value_of_the_wrong_kind(config: str, parser: ArgumentParser, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(config)
    with pytest.raises(ArgumentError) as raised:
        parser.parse_args(["--config", str(file)])
    line, words = VALUES[config]
    assert _line(raised.value, parser) == f"{file}, line {line}: {words}"


def test_the_nearest_config_is_named() -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no config 'fsm_layr3' in .*; did you mean fsm_layer3\.yaml or fsm_layer"
    ):
        find_config("fsm_layr3")
    with pytest.raises(FileNotFoundError, match="no config '/': it is a folder; give a YAML file"):
        find_config("/")


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
