"""What a study checks before its first training, and how long it says that it takes."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_app.cli.fit_config import FitSettings, read_fit_settings
from lightning_app.commands import ablate, compare
from lightning_app.masks import freeform_masks, save_mask
from lightning_app.studies import preflight
from lightning_app.studies import runner as jobs
from lightning_app.studies.estimate import Planned, estimate
from tests.command_line import write_config
from tests.models.attacked_data import attacked_data

Study = Callable[..., Path]


@pytest.fixture
def study(fitted_clean: Path, drawn_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Write a config of `ablate` or `compare` over an FSM config; no run may be started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def started(args: list[str], *rest: object) -> bool:
        raise AssertionError(f"started {args}")

    monkeypatch.setattr(jobs, "call", started)
    write_config(tmp_path / "fsm.yaml", drawn_root, "ResNetFSM")
    save_mask(freeform_masks(1, 32)[0], tmp_path / "mask.png")
    save_mask(freeform_masks(1, 48)[0], tmp_path / "large.png")

    def write(**description: Any) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({"name": "study"} | description))
        return path

    return write


def last(home: Path) -> str:
    return str(next((home / "runs").iterdir()) / "checkpoints/last.ckpt")


def ablated(study: Study, system: dict[str, Any], variant: dict[str, Any] | None = None) -> None:
    ablate.run(["--config", str(study(variants={"one": variant or {}}, systems={"FSM": system}))])


def test_a_clean_checkpoint_under_an_fsm_config_is_refused_by_both(study: Study, fitted_clean: Path) -> None:
    wrong = r"another network \(resnet18, no FSM, .*yours: resnet18, layer2"
    with pytest.raises(
        ValueError, match=rf"systems.FSM, variants.one: .*last.ckpt under fsm.yaml: .*{wrong}"
    ):
        ablated(study, {"config": "fsm.yaml", "checkpoint": last(fitted_clean)})
    methods = {"mask": {"config": "fsm.yaml", "checkpoint": last(fitted_clean)}}
    path = study(methods=methods, judges={"j": "mask"})
    with pytest.raises(ValueError, match=rf"methods.mask: .*last.ckpt under fsm.yaml: .*{wrong}"):
        compare.run(["--config", str(path)])


def test_a_mask_of_another_size_is_refused_before_the_first_run(study: Study) -> None:
    of = "--data.init_args.desensitizer.init_args"
    args = [f"{of}.freeform", "null", f"{of}.mask", "large.png"]
    with pytest.raises(ValueError, match=r"systems.FSM, variants.one: mask large.png is 48×48"):
        ablated(study, {"config": "fsm.yaml"}, {"args": args})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data.init_args.reader.init_args.root", "nowhere"], "root=nowhere: no such folder"),
        (["--model.backbone", "resnet19"], "resnet19"),
        (["--model.init_from", "none.ckpt"], r"model.init_from=none.ckpt: no such file; train it first"),
    ],
)
def test_what_fit_would_refuse_is_refused_before_the_first_run(
    study: Study, args: list[str], message: str
) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        ablated(study, {"config": "fsm.yaml"}, {"args": args})
    methods = {"fine": {"config": "fsm.yaml"}, "wrong": {"config": "fsm.yaml", "args": args}}
    with pytest.raises((ValueError, OSError), match=f"methods.wrong: .*{message}"):
        compare.run(["--config", str(study(methods=methods, judges={"own": "fine"}))])


def test_a_search_that_has_no_scorer_is_refused_before_the_first_run(study: Study, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("scorer: nowhere.ckpt\n")
    path = study(variants={"T": {"search": {}}}, systems={"FSM": {"config": "fsm.yaml"}}, search="s.yaml")
    with pytest.raises(
        FileNotFoundError, match=r"variants.T.search: nowhere.ckpt: no such checkpoint; train it"
    ):
        ablate.run(["--config", str(path)])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"judges": {"j": "damaged.ckpt"}}, "judges.j: .*damaged.ckpt"),
        ({"recognisers": {"r": "damaged.ckpt"}, "judges": {"j": "m"}}, "recognisers.r: .*damaged.ckpt"),
        ({"judges": {"j": "bare"}}, r"judges.j: bare has no recogniser \(train: false\)"),
        (
            {"judges": {"j": "waves"}},
            "judges.j: the recogniser of waves takes what that method releases, which is no",
        ),
        ({"judges": {"j": "m"}, "attackers": {"U": {"config": "unet.yaml"}}}, "U: .*nowhere"),
    ],
)
def test_judges_and_attackers_are_tried_before_the_first_run(
    study: Study, tmp_path: Path, drawn_root: Path, more: dict[str, Any], message: str
) -> None:
    (tmp_path / "damaged.ckpt").write_bytes(b"nothing")
    made = yaml.safe_load(write_config(tmp_path / "unet.yaml", drawn_root, "ResNet").read_text())
    made["model"] = {"class_path": "lightning_app.models.UNetRestorer"}
    made["data"]["init_args"]["reader"]["init_args"]["root"] = "nowhere"
    made["trainer"]["callbacks"] = []
    (tmp_path / "unet.yaml").write_text(yaml.safe_dump(made))
    plain = str(write_config(tmp_path / "plain.yaml", drawn_root, "ResNet"))
    waves = ["--data.init_args.desensitizer", "{class_path: lightning_app.desensitize.BlockDCT}"]
    methods = {
        "m": {"config": "fsm.yaml"},
        "bare": {"config": plain, "train": False},
        "waves": {"config": plain, "args": waves},
    }
    path = study(methods=methods, **more)
    with pytest.raises((ValueError, OSError), match=message):
        compare.run(["--config", str(path)])


def drawn(size: int) -> dict[str, Any]:
    given = {"identities": 4, "images_per_identity": 2, "first_identity": 900, "size": size}
    return {"class_path": "datamodules.DrawnFaces", "init_args": given}


@pytest.mark.parametrize(
    ("attack", "arguments"),
    [
        ("MeanFace", {}),
        ("LeastSquares", {}),
        ("Unshuffle", {"reference": {"class_path": "lightning_app.desensitize.BlockDCT"}}),
    ],
)
def test_an_attack_on_faces_of_another_size_is_refused_before_the_first_run(
    study: Study, attack: str, arguments: dict[str, Any]
) -> None:
    given = {"class_path": f"lightning_app.attacks.{attack}", "init_args": arguments | {"reader": drawn(48)}}
    path = study(methods={"m": {"config": "fsm.yaml"}}, judges={"j": "m"}, attacks={"it": given})
    words = r"^attacks\.it: it learns from faces of 48 px, and those of the methods have 32 px: give it faces of 32"
    with pytest.raises(ValueError, match=words):
        compare.run(["--config", str(path)])


@pytest.mark.parametrize("model", ["UNetRestorer", "Linker"])
def test_an_attacker_on_faces_of_another_size_is_refused_before_the_first_run(
    study: Study, tmp_path: Path, model: str
) -> None:
    arguments: dict[str, Any] = {"width": 8}
    if model == "Linker":
        arguments["teacher"] = {"class_path": "tests.commands.compared.Pool"}
    (tmp_path / "attacker.yaml").write_text(yaml.safe_dump({
        "trainer": {"max_epochs": 2, "accelerator": "cpu"},
        "model": {"class_path": f"lightning_app.models.{model}", "init_args": arguments},
        "data": attacked_data(None, 48),
    }))  # fmt: skip
    one = {"config": "attacker.yaml"}
    attackers = {"linker": one | {"teacher": "j"}} if model == "Linker" else {"attackers": {"U-Net": one}}
    judges = {"j": {"class_path": "tests.commands.compared.Pool"}}
    path = study(methods={"m": {"config": "fsm.yaml"}}, judges=judges, **attackers)
    with pytest.raises(
        ValueError, match=r"(linker|U-Net) on methods\.m: it learns from faces of 48 px, and those"
    ):
        compare.run(["--config", str(path)])


def test_a_full_disk_and_a_folder_that_cannot_be_written_are_told(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 3_000_000))
    with pytest.raises(
        OSError, match=r"runs/study: 1 runs leave about 0.1 GB, and 0.0 GB are free on its disk"
    ):
        ablated(study, {"config": "fsm.yaml"})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 10**12))
    preflight.check_room(Path("runs/study"), [])
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(PermissionError, match="cannot be written, and runs/study would lie there"):
        preflight.check_room(Path("runs/study"), [])


def settings(study: Study) -> FitSettings:
    return read_fit_settings(["--config", "fsm.yaml", "--seed_everything", "5"])


def record(run: Path, seconds: float, description: dict[str, Any]) -> None:
    run.mkdir(parents=True)
    (run / "metrics.json").write_text(json.dumps({"time/fit_s": seconds}))
    (run / "config.yaml").write_text(yaml.safe_dump(description))


def test_time_is_estimated_by_runs_like_it(study: Study, tmp_path: Path) -> None:
    setting = settings(study)
    description = json.loads(json.dumps(setting.description)) | {"seed_everything": 1}
    description["data"]["init_args"]["desensitizer"] = (
        None  # how it is desensitized takes no time to speak of
    )
    for number, seconds in enumerate((100.0, 140.0, 120.0)):
        record(tmp_path / f"runs/old/{number}", seconds, description)
    longer = {**description, "trainer": {"max_epochs": 20, "max_steps": -1}}
    record(tmp_path / "runs/longer", 9000.0, longer)
    channels = json.loads(json.dumps(description))  # 63 of them take a network longer
    channels["data"]["init_args"]["desensitizer"] = {
        "class_path": "lightning_app.desensitize.Chain",
        "init_args": {"steps": [{"class_path": "lightning_app.desensitize.BlockDCT"}]},
    }
    record(tmp_path / "runs/channels", 9000.0, channels)
    (tmp_path / "runs/damaged").mkdir()
    (tmp_path / "runs/damaged/metrics.json").write_text("{")
    (tmp_path / "runs/damaged/config.yaml").write_text("x")
    lines = estimate([Planned("FSM", setting)] * 3, tmp_path / "runs")
    assert lines == [
        f"3 × FSM: about 0:06:00 (0:02:00 each, as 3 earlier runs in {tmp_path / 'runs'} took)",
        "in all about 0:06:00 of training; measuring comes on top",
    ]


def test_without_a_record_a_recogniser_is_timed_and_what_is_not_known_is_said(
    study: Study, tmp_path: Path
) -> None:
    setting = settings(study)
    lines = estimate([Planned("FSM", setting)], tmp_path / "runs")
    assert lines[0].startswith("FSM: about 0:00:0")
    assert "by 2 timed steps of the network; reading and verifying come on top" in lines[0]
    assert all(one.grad is None for one in setting.model.parameters())  # type: ignore[union-attr]
    endless = {**setting.description, "trainer": {"max_epochs": -1, "max_steps": -1}}
    unknown = FitSettings(setting.data, None, endless, None, {}, model=setting.model)
    assert estimate([Planned("U-Net", unknown)], tmp_path / "runs") == [
        f"U-Net: not known, for {tmp_path / 'runs'} has no run like it",
        "in all about 0:00:00 of training, and 1 runs of which nothing is known; measuring comes on top",
    ]
    assert estimate([], tmp_path / "runs") == []


@pytest.mark.parametrize(
    ("model", "desensitizer"),
    [
        *itertools.product(["UNetRestorer", "CGAN", "Linker"], ["GaussianBlur", "BlockDCT"]),
        ("Inpainter", "GaussianBlur"),
    ],
)
def test_attackers_are_timed_too(model: str, desensitizer: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"width": 8}
    if model == "Linker":
        arguments["teacher"] = {"class_path": "tests.models.test_linker.Corners"}
    method = {"class_path": f"lightning_app.desensitize.{desensitizer}", "init_args": {}}
    config = tmp_path / "attacker.yaml"
    config.write_text(yaml.safe_dump({
        "trainer": {"max_epochs": 2, "accelerator": "cpu"},
        "model": {"class_path": f"lightning_app.models.{model}", "init_args": arguments},
        "data": attacked_data(method, 32),
    }))  # fmt: skip
    setting = read_fit_settings(["--config", str(config)])
    lines = estimate([Planned(model, setting)], tmp_path / "runs")
    assert re.match(rf"{model}: about \d:\d\d:\d\d \(.* each, by 2 timed steps of the network; ", lines[0])
    assert setting.model is not None
    assert all(one.grad is None for one in setting.model.parameters())


def test_the_estimate_is_told_before_the_first_run(study: Study, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), pytest.raises(AssertionError, match="started"):
        ablated(study, {"config": "fsm.yaml"})
    assert any(line.startswith("Time: systems.FSM: about ") for line in caplog.messages)
