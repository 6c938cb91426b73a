"""jsonargparse's messages: one line, with key, class and the nearest name."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from lightning_app.cli.configs import CONFIGS
from lightning_app.cli.parse_error import the_reason
from tests.command_line import RunMain, refused, write_config


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--trainer.callbacks", json.dumps([{"class_path": "callbacks.LFWVerification", "init_args": {"rot": "x"}}])],
         "trainer.callbacks: callbacks.LFWVerification has no 'rot'; did you mean 'root'?"),
        (["--trainer.callbacks", json.dumps([{"class_path": "callbacks.LFWVerificaton"}])],
         "trainer.callbacks: callbacks has no 'LFWVerificaton'; did you mean 'LFWVerification'?"),
        (["--trainer.callbacks+=callbacks.Pictures", "--trainer.callbacks.init_args.foo", "3"],
         "trainer.callbacks: callbacks.Pictures has no 'foo'; it takes every_n_epochs, images, show_faces"),
        (["--model.init_args.backbon", "x"],
         "model: lightning_app.models.ResNet has no 'backbon'; did you mean 'backbone'?"),
        (["--model.init_args.lr", "abc"], "model.lr: lightning_app.models.ResNet: abc is no float"),
        (["--data.reader.init_args.sise", "4"],
         "data.reader: datamodules.FolderFaces has no 'sise'; did you mean 'size'?"),
        (["--data.reader", "datamodule.FolderFaces"], "there is no module 'datamodule'; did you mean 'datamodules'?"),
        (["--trainer.max_epoks", "3"],
         "unrecognized arguments: --trainer.max_epoks 3; did you mean '--trainer.max_epochs'?"),
        (["--trainer.max_epoch", "3"],  # cut short: argparse would take it for the only one that begins so
         "unrecognized arguments: --trainer.max_epoch 3; did you mean '--trainer.max_epochs'?"),
    ],
)  # fmt: skip
def test_an_argument_of_a_fit(
    args: list[str], line: str, drawn_root: Path, tmp_path: Path, run_main: RunMain,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = write_config(tmp_path / "a.yaml", drawn_root)
    with pytest.raises(SystemExit) as end:
        run_main("fit", "--config", config, *args)
    assert end.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ")
    assert line in said


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["fit", "--config", "lfwa_quick_resnet.yaml", "--model.schedule=onecycle"],
         "model.schedule: 'onecycle' is none of step, one_cycle, cosine, constant; did you mean 'one_cycle'?"),
        (["fit", "--config", "lfwa_quick_resnet.yaml", "--data.reader=FolderFace"],
         "data.reader: 'FolderFace' is no class path; did you mean datamodules.FolderFaces?"),
        # what the command line gives is not blamed on the file
        (["sweep-levels", "--config", "sweep_levels.yaml", "--levels", "banana"], "levels: banana is no list"),
        (["fit", "--config", "lfwa_quick_mask.yaml", "--model.lr=abc"],
         "model.lr: lightning_app.models.ResNetMask: abc is no float"),
        (["sweep-levels", "--config", "sweep_levels.yaml", "--checkpoints", "[runs/mine]"],
         "checkpoints: ['runs/mine'] is no dict"),
        (["search-mask", "--config", "align.yaml"],
         f"{CONFIGS}/align.yaml is a config of another command: search-mask takes no 'root'; it needs checkpoint, "
         "data, see configs/search_mask.yaml"),
        (["align", "--config", "search_mask.yaml"],
         f"{CONFIGS}/search_mask.yaml is a config of another command: align takes no 'data'; it needs output, root, "
         "see configs/align.yaml"),
        (["align"], "the following arguments are required: root, output; give them, or --config NAME.yaml, see "
         "configs/align.yaml"),
        (["federate"], "the following arguments are required: data, model; give them, or --config NAME.yaml"),
    ],
)  # fmt: skip
def test_what_is_given_where_it_does_not_belong(
    args: list[str], line: str, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_main(*args)
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {line}"


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ("--model.head=lightning_app.networks.SoftmxHead",
         "model.head: lightning_app.networks has no 'SoftmxHead'; did you mean 'SoftmaxHead'?"),
        ("--model.head={class_path: nopackage.Head}",
         "model.head: there is no module 'nopackage' where Python looks; name its folder in PYTHONPATH"),
        ("--model.head=plugged.broken.Head", "model.head: plugged.broken cannot be imported: No module named 'gone'"),
        ("--model.backbone={class_path: plugged.whole.Tinny}",
         "model.backbone: plugged.whole has no 'Tinny'; did you mean 'Tiny'?"),
        ("--model.backbone={class_path: plugged.broken.Tiny}",
         "model.backbone: plugged.broken cannot be imported: No module named 'gone'"),
        ("--model.backbone=nopackage.Tiny", "backbone='nopackage.Tiny': no such class where Python looks (PYTHONPATH)"),
        ("--data.desensitizer=plugged.broken.Veil",
         "data.desensitizer: plugged.broken cannot be imported: No module named 'gone'"),
    ],
)  # fmt: skip
def test_a_class_of_ones_own_that_is_not_there(
    args: str, line: str, drawn_root: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The class that is named, and not the one that takes it."""
    package = tmp_path / "elsewhere" / "plugged"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "broken.py").write_text("import gone\n")
    (package / "whole.py").write_text("class Tiny: ...\n")
    monkeypatch.syspath_prepend(str(package.parent))
    with pytest.raises(SystemExit):
        run_main("fit", "--config", write_config(tmp_path / "a.yaml", drawn_root), args)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert line in said
    for name in ("plugged", "plugged.whole", "plugged.broken"):
        sys.modules.pop(name, None)


def test_a_callback_in_a_list_of_a_config(
    drawn_root: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "a.yaml", drawn_root)
    content = yaml.safe_load(config.read_text())
    content["trainer"]["callbacks"][1]["init_args"] = {"image": 4}
    config.write_text(yaml.safe_dump(content))
    with pytest.raises(SystemExit):
        run_main("fit", "--config", config)
    said = "trainer.callbacks: callbacks.DSSIMReport has no 'image'; did you mean 'images'?"
    assert re.fullmatch(
        rf"error: {re.escape(str(config))}, line \d+: {re.escape(said)}\n", capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["draw-mask", "--sede", "3"], "unrecognized arguments: --sede 3; did you mean '--seed'?"),
        (["draw-mask", "--size", "abc"], "size: abc is no int"),
        (["fti"], "no command 'fti'; did you mean fit? There are: fit, validate"),
    ],
)
def test_other_commands(
    args: list[str], line: str, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_main(*args)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {line}")


@pytest.mark.parametrize(
    ("judge", "line"),
    [
        ({"class_path": "lightning_app.evaluation.OnnxJugde"}, "lightning_app.evaluation has no 'OnnxJugde'; did you "
         "mean 'OnnxJudge'?"),
        ({"class_path": "lightning_app.evaluation.OnnxJudge", "init_args": {"pth": "a"}},
         "lightning_app.evaluation.OnnxJudge has no 'pth'; did you mean 'path'?"),
    ],
)  # fmt: skip
def test_a_class_where_a_name_may_stand(
    judge: dict[str, object], line: str, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "a.yaml"
    config.write_text(yaml.safe_dump({"methods": {"a": {"config": "demo.yaml"}}, "judges": {"j": judge}}))
    with pytest.raises(SystemExit):
        run_main("compare", "--config", config)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {config}, line ")
    assert said.endswith(f"judges: {line}")


def test_a_config_of_fit_given_to_another_command(
    run_main: RunMain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(
        "trainer: {max_epochs: 1}\nmodel: {class_path: lightning_app.models.ResNet}\n"
        "data: {reader: {class_path: datamodules.FolderFaces, init_args: {root: faces}}}\n"
    )
    with pytest.raises(SystemExit):
        run_main("desensitize", "--config", "mine.yaml")
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: mine.yaml is a config of fit: desensitize takes no ")
    assert said.endswith("; it needs desensitizer, output, reader, see configs/desensitize.yaml")
    (tmp_path / "release.yaml").write_text(
        "reader: {class_path: datamodules.FolderFaces, init_args: {root: faces}}\n"
    )
    with pytest.raises(SystemExit):
        run_main("fit", "--config", "release.yaml")
    line = "error: release.yaml is a config of another command: fit takes 'reader' under `data`\n"
    assert capsys.readouterr().err == line
    assert "; did you mean mine.yaml?" in refused(capsys, lambda: run_main("fit", "--config", "mien.yaml"))
    with pytest.raises(SystemExit):  # a fit's own mistake stays one
        run_main("fit", "--config", "mine.yaml", "--data.reader.init_args.sise", "4")
    assert "did you mean 'size'?" in capsys.readouterr().err


def test_what_is_of_one_line_stays() -> None:
    assert the_reason("argument --size: expected one argument") == "argument --size: expected one argument"
    assert the_reason(
        "Subcommand 'fit' does not accept option 'trainer.max_epoch'", ["trainer.max_epochs"]
    ) == ("Subcommand 'fit' does not accept option 'trainer.max_epoch'; did you mean 'trainer.max_epochs'?")
    assert len(the_reason("x " * 1000)) <= 400
