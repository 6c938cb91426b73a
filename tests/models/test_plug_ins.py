"""A head and a backbone of somebody else's, by class_path, from `fit` to what is handed on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml

from lightning_app.export import to_safetensors
from lightning_app.masks import load_mask
from lightning_app.models import ResNetFSM
from lightning_app.models.checkpoints import read_recogniser
from lightning_app.models.known import trusting
from lightning_app.networks import SoftmaxHead
from lightning_app.studies import runner
from tests.command_line import RunMain, clean_config, refused, write_config
from tests.networks.test_backbones import ToyBackbone
from tests.networks.test_heads import ToyHead

HEAD, BACKBONE = "tests.networks.test_heads.ToyHead", "tests.networks.test_backbones.ToyBackbone"
BOTH = ("--trust", HEAD, "--trust", BACKBONE)


def _toys(config: Path, **model: object) -> Path:
    text = yaml.safe_load(config.read_text())
    text["model"]["init_args"] = model
    text["trainer"] |= {"max_epochs": 1, "callbacks": text["trainer"]["callbacks"][:1]}
    config.write_text(yaml.safe_dump(text))
    return config


def _fitted(home: Path, config: Path) -> Path:
    from main import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        main(["fit", "--config", str(config), "--runs", str(home / "runs")])
    return home


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory, drawn_root: Path) -> Path:
    """A folder in which a gated toy backbone has been fitted with a toy head."""
    home = tmp_path_factory.mktemp("toys")
    config = _toys(
        write_config(home / "toys.yaml", drawn_root, "ResNetFSM"),
        backbone={"class_path": BACKBONE, "init_args": {"channels": 8}}, insertion_points=["early"],
        head={"class_path": HEAD, "init_args": {"scale": 6.0}},
    )  # fmt: skip
    return _fitted(home, config)


@pytest.fixture(scope="module")
def toy_head(tmp_path_factory: pytest.TempPathFactory, drawn_root: Path) -> Path:
    """A folder in which a clean ResNet has been fitted with a toy head."""
    home = tmp_path_factory.mktemp("toy_head")
    config = _toys(
        clean_config(home / "clean.yaml", drawn_root),
        backbone="resnet18", width=8, head={"class_path": HEAD},
    )  # fmt: skip
    return _fitted(home, config)


def _search(home: Path, out: Path, checkpoint: Path) -> Path:
    text = yaml.safe_load(next(home.glob("*.yaml")).read_text())
    text["data"]["init_args"].pop("desensitizer", None)
    path = out / "search.yaml"
    path.write_text(yaml.safe_dump({
        "checkpoint": str(checkpoint), "data": text["data"] | {"init_args": text["data"]["init_args"] | {"seed": 0}},
        "faces": 8, "candidates": 4, "images": 6, "min_images": 2, "ratio": [0.6, 0.8], "threshold": 0.7,
        "output": str(out / "masks"), "bf16": False,
    }))  # fmt: skip
    return path


def test_a_run_of_both_is_read_again_with_trust_alone(toys: Path) -> None:
    run = toys / "runs/toys"
    with pytest.raises(
        ValueError, match=rf"backbone: names the class '{BACKBONE}'.*give --trust {BACKBONE} \(in Python"
    ):
        read_recogniser(run)
    with (
        trusting([BACKBONE]),
        pytest.raises(ValueError, match=rf"head: names the class '{HEAD}'.*give --trust {HEAD} \(in Python"),
    ):
        read_recogniser(run)
    with trusting([HEAD, BACKBONE]):
        model, facts = read_recogniser(run)
    assert (facts.model, type(model.backbone), type(model.head)) == ("ResNetFSM", ToyBackbone, ToyHead)
    assert isinstance(model.head, ToyHead)
    assert (model.head.scale, model.head.num_classes, model.backbone.dim) == (6.0, 6, 16)
    assert list(model.backbone.gates) == ["early"]
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in saved["state_dict"].items())
    assert saved["hyper_parameters"]["head"] == {"class_path": HEAD, "init_args": {"scale": 6.0}}


def test_lightning_reads_no_class_out_of_such_a_checkpoint(toys: Path) -> None:
    saved = torch.load(toys / "runs/toys/checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]
    given = {key: value for key, value in saved.items() if key[0] != "_"}
    with pytest.raises(ValueError, match=rf"head: the checkpoint names the class '{HEAD}', which is none of"):
        ResNetFSM(**given)
    with pytest.raises(
        ValueError, match=rf"backbone: the checkpoint names the class '{BACKBONE}', which is none"
    ):
        ResNetFSM(**(given | {"head": None}))
    ours = {"class_path": "lightning_app.networks.SoftmaxHead", "init_args": {"label_smoothing": 0.1}}
    made = ResNetFSM(**(given | {"backbone": "resnet18", "insertion_points": ["layer2"], "head": ours}))
    assert isinstance(made.make_head(3), SoftmaxHead)


def test_validate_and_what_another_config_is_told(
    toys: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("validate", "--config", toys / "toys.yaml", "--runs", toys / "runs", "--ckpt_path", "last")
    run_main(*given)
    metrics = json.loads((toys / "runs/toys/metrics.json").read_text())
    assert 0 <= metrics["val/accuracy"] <= 1
    line = refused(capsys, lambda: run_main(*given, "--model.head", "null"))
    assert "this checkpoint has another head (ToyHead; yours: SoftmaxHead, or other settings of it)" in line
    line = refused(capsys, lambda: run_main(*given, "--model.insertion_points", "[attic]"))
    assert "insertion point 'attic': choose among early, late" in line


def test_export_without_and_with_the_head(
    toys: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    export = ("export", "--ckpt_path", toys / "runs/toys")
    assert f"give --trust {BACKBONE}" in refused(
        capsys, lambda: run_main(*export, "--output", tmp_path / "no")
    )
    assert not (tmp_path / "no").exists()
    run_main(*export, *BOTH, "--output", tmp_path / "whole", "--head")
    card = json.loads((tmp_path / "whole/card.json").read_text())
    assert (card["model"]["backbone"], card["output"]["dimensions"]) == ("ToyBackbone", 16)
    with trusting([HEAD, BACKBONE]):
        first, facts = read_recogniser(toys / "runs/toys")
    (tmp_path / "plain.safetensors").write_bytes(to_safetensors(first, facts, None, 0.5, 0.5))
    with trusting([BACKBONE]):
        plain, _ = read_recogniser(tmp_path / "plain.safetensors")
        with pytest.raises(ValueError, match=f"give --trust {HEAD}"):
            read_recogniser(tmp_path / "whole/model.safetensors")
    with trusting([HEAD, BACKBONE]):
        whole, _ = read_recogniser(tmp_path / "whole/model.safetensors")
    image = torch.rand(2, 3, 32, 32)
    mask = load_mask(tmp_path / "whole/mask.png", 32)[None]
    assert torch.equal(plain.embed(image, mask), first.embed(image, mask))
    assert torch.equal(whole(image, mask), first(image, mask))
    assert plain.head.num_classes == 0


def test_what_the_users_own_config_names_is_trusted_without_more(
    toys: Path, tmp_path: Path, run_main: RunMain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`compare` trains the toys and reads them again, `export` reads them: with their config, and no --trust."""
    pytest.importorskip("onnxruntime")
    given = ("--config", toys / "toys.yaml", "--runs", toys / "runs", "--ckpt_path", "last")
    run_main("export", *given, "--output", tmp_path / "whole")
    card = json.loads((tmp_path / "whole/card.json").read_text())
    assert card["model"]["backbone"] == "ToyBackbone"

    def call(args: Sequence[str], *rest: object) -> bool:
        run_main(*args)
        return True

    monkeypatch.setattr(runner, "call", call)
    mine, last = str(toys / "toys.yaml"), str(toys / "runs/toys/checkpoints/last.ckpt")
    compared = {
        "name": "both", "methods": {"masked": {"config": mine}, "given": {"config": mine, "checkpoint": last}},
        "judges": {"its own": "masked"},
        "attacks": {"Telea": {"class_path": "lightning_app.attacks.Telea"}}, "bootstrap": 20, "examples": 1,
        "device": "cpu",
    }  # fmt: skip
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(compared))
    run_main("compare", "--config", tmp_path / "both.yaml")
    found = json.loads((tmp_path / "runs/both/metrics.json").read_text())
    for label in ("masked", "given"):
        assert 0 <= found[f"compare/{label}/Telea/verification/its own"] <= 1


def test_search_mask_explains_the_scores_of_a_toy_head(
    toy_head: Path, tmp_path: Path, run_main: RunMain
) -> None:
    checkpoint = toy_head / "runs/clean/checkpoints/last.ckpt"
    run_main("search-mask", "--config", _search(toy_head, tmp_path, checkpoint), "--trust", HEAD)
    found = json.loads((tmp_path / "masks/searched/mask.json").read_text())
    assert 0.6 <= found["mask_ratio"] <= 0.8


def test_search_mask_has_no_rule_for_a_toy_backbone(
    toys: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _search(toys, tmp_path, toys / "runs/toys/checkpoints/last.ckpt")
    line = refused(capsys, lambda: run_main("search-mask", "--config", config, *BOTH))
    assert (
        "does not know this ResNetFSM (its ToyBackbone is no ResNet, and there is no rule for its stem.2, a SiLU)"
        in line
    )
