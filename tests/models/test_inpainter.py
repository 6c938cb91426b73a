"""An attacker trained by `fit` on drawn faces, end to end, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from datamodules import DrawnFaces
from lightning_app.attacks import TrainedRestorer
from lightning_app.desensitize import MaskOut, Mosaic
from lightning_app.metrics import psnr
from lightning_app.models import Inpainter, ResNet
from lightning_app.models.inpainter import LossWeights
from lightning_app.networks.feature_maps import FeatureMaps
from tests.command_line import RunMain, refused
from tests.models.attacked_data import attacked_data

SIZE = 32
MASK = {"class_path": "lightning_app.desensitize.MaskOut", "init_args": {"freeform": [0.3, 0.4]}}
MOSAIC = {"class_path": "lightning_app.desensitize.Mosaic", "init_args": {"block": 8}}


def write(path: Path, desensitizer: object = MASK, epochs: int = 2, **model: object) -> Path:
    """A `fit` of an Inpainter on 8 drawn people at 32 px; features are recurred once where `model` says no more."""
    config: dict[str, Any] = {
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": epochs,
            "log_every_n_steps": 1,
            "callbacks": [{"class_path": "callbacks.RestorationPictures", "init_args": {"images": 2}}],
        },
        "model": {
            "class_path": "lightning_app.models.Inpainter",
            "init_args": {"width": 8, "recurrences": 1, "depth": 2, "learning_rate": 5e-3} | model,
        },
        "data": attacked_data(desensitizer, SIZE),
    }
    path.write_text(yaml.safe_dump(config))
    return path


def losses(run: Path) -> list[float]:
    rows = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    return [float(row["train/loss"]) for row in rows if row.get("train/loss")]


@pytest.mark.parametrize("desensitized", ["mask", "mosaic"])
@pytest.mark.slow
def test_a_run_learns_and_its_checkpoint_attacks(
    desensitized: str, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    desensitizer = MASK if desensitized == "mask" else MOSAIC
    run_main("fit", "--config", write(tmp_path / "attack.yaml", desensitizer, 10, recurrences=2))
    printed = capsys.readouterr().out
    assert "no perceptual and no style loss" in " ".join(printed.split())
    assert "Inpainter" in printed
    run = tmp_path / "runs" / "attack"
    seen = losses(run)
    assert sum(seen[-5:]) < 0.7 * sum(seen[:5])
    metrics = json.loads((run / "metrics.json").read_text())
    parts = {key for key in metrics if key.startswith(("train/", "inpaint/"))}
    assert parts == {
        "train/loss", "train/lr", "train/valid", "train/hole", "train/tv", "inpaint/psnr", "inpaint/psnr_before",
    }  # fmt: skip
    assert (metrics["train/valid"] > 0) == (desensitized == "mask")
    assert (run / "restored.png").is_file()
    if desensitized == "mask":  # black is easily bettered; a mosaic is not, within seconds
        assert metrics["inpaint/psnr"] > metrics["inpaint/psnr_before"] + 3

    attack = TrainedRestorer(run)
    assert attack.needs_mask == (desensitized == "mask")
    others = DrawnFaces(identities=3, images_per_identity=2, size=SIZE, first_identity=500)
    clean = others.__getitems__(list(range(6)))["image"].float() / 255
    method = MaskOut(freeform=(0.3, 0.4)) if desensitized == "mask" else Mosaic(8)
    batch = method({"image": clean, "index": torch.arange(6)})
    restored = attack.restore(batch)
    model = Inpainter.load_from_checkpoint(run / "checkpoints/last.ckpt", map_location="cpu").eval()
    with torch.no_grad():
        expected = model(batch["image"], batch["mask"], batch["mask_index"]).clamp(0, 1)
    if batch["mask"] is None:
        torch.testing.assert_close(restored, expected)
    else:
        mask = batch["mask"].expand(6, 3, -1, -1)
        assert torch.equal(restored[mask == 1], batch["image"][mask == 1])
        torch.testing.assert_close(restored[mask == 0], expected[mask == 0])
        hidden = 1 - batch["mask"]
        better = psnr(restored, clean, hidden) - psnr(batch["image"], clean, hidden)
        assert better.mean() > 1
    description = attack.describe()
    assert description["step"] == 30
    assert description["trained_on"]["method"] == type(method).__name__  # type: ignore[index]


def test_going_on_is_the_same_as_never_having_stopped(tmp_path: Path, run_main: RunMain) -> None:
    whole = write(tmp_path / "whole.yaml", recurrences=2)
    run_main("fit", "--config", whole)
    run_main("fit", "--config", whole, "--name", "part", "--trainer.max_epochs", 1)
    run_main("fit", "--config", whole, "--name", "part", "--ckpt_path", "last")
    one, two = (
        torch.load(tmp_path / "runs" / name / "checkpoints/last.ckpt", weights_only=True)
        for name in ("whole", "part")
    )
    assert one["global_step"] == two["global_step"] == 6
    for key, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][key], value, atol=1e-6, rtol=1e-5, msg=key)
    metrics = [json.loads((tmp_path / f"runs/{n}/metrics.json").read_text()) for n in ("whole", "part")]
    assert metrics[1]["inpaint/psnr"] == pytest.approx(metrics[0]["inpaint/psnr"], rel=1e-5)
    run_main("validate", "--config", whole, "--ckpt_path", "last")
    again = json.loads((tmp_path / "runs/whole/metrics.json").read_text())
    assert again["inpaint/psnr"] == pytest.approx(metrics[0]["inpaint/psnr"], rel=1e-5)


@pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode")  # the frozen batch norms
def test_fine_tuning_freezes_batch_norm_and_begins_with_the_weights(
    tmp_path: Path, run_main: RunMain
) -> None:
    run_main("fit", "--config", write(tmp_path / "first.yaml", epochs=1))
    tuned = write(
        tmp_path / "tuned.yaml", epochs=1, start_from="runs/first", finetune=True, learning_rate=None
    )
    run_main("fit", "--config", tuned)
    one, two = (
        torch.load(tmp_path / "runs" / name / "checkpoints/last.ckpt", weights_only=True)
        for name in ("first", "tuned")
    )
    assert two["hyper_parameters"]["learning_rate"] == 5e-5
    assert not any("first" in str(value) for value in two["hyper_parameters"].values())  # no path
    for key, value in one["state_dict"].items():
        if "running" in key or "batches" in key:
            assert torch.equal(two["state_dict"][key], value), key
        else:
            assert (two["state_dict"][key] - value).abs().max() < 1e-3, key
    changed = [k for k, v in one["state_dict"].items() if not torch.equal(two["state_dict"][k], v)]
    assert "network.first.weight" in changed
    run_main("fit", "--config", tuned, "--ckpt_path", "last", "--trainer.max_epochs", 2)
    three = torch.load(tmp_path / "runs/tuned/checkpoints/last.ckpt", weights_only=True)
    assert three["global_step"] == 6
    name = "network.first.weight"
    moved = [(three["state_dict"][name] - state["state_dict"][name]).abs().max() for state in (one, two)]
    assert moved[0] > moved[1]  # it went on with the tuned weights, not with the first


def test_features_of_a_recogniser_add_two_parts_and_stay_out_of_the_checkpoint(
    tmp_path: Path, run_main: RunMain, fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = ResNet(backbone="resnet18", width=8, num_classes=2, input_size=SIZE)
    torch.save({"state_dict": clean.state_dict(), "hyper_parameters": dict(clean.hparams)}, "clean.ckpt")
    config = write(tmp_path / "attack.yaml", epochs=1, features="clean.ckpt")
    run_main("fit", "--config", config)
    metrics = json.loads((tmp_path / "runs/attack/metrics.json").read_text())
    assert metrics["train/perceptual"] > 0
    assert metrics["train/style"] > 0
    state = torch.load(tmp_path / "runs/attack/checkpoints/last.ckpt", weights_only=True)
    assert all(key.startswith("network.") for key in state["state_dict"])
    assert "clean" not in str(state["hyper_parameters"])
    line = refused(
        capsys,
        lambda: run_main("fit", "--config", config, "--overwrite", "--model.features", fitted / "runs/tiny"),
    )
    assert "a ResNetFSM's depend on masks" in line


def test_the_loss_is_the_weighted_sum_of_its_parts(tmp_path: Path, run_main: RunMain) -> None:
    weights = {"valid": 2.0, "hole": 3.0, "perceptual": 1.0, "style": 1.0, "tv": 0.5}
    run_main("fit", "--config", write(tmp_path / "a.yaml", epochs=1, weights=weights))
    found = json.loads((tmp_path / "runs/a/metrics.json").read_text())
    expected = sum(weights[name] * found[f"train/{name}"] for name in ("valid", "hole", "tv"))
    assert found["train/loss"] == pytest.approx(expected, rel=1e-4)
    assert LossWeights() == LossWeights(1, 6, 0.05, 120, 0.1)  # RFR-Net, section 3.4


def test_what_does_not_suit_an_attacker_is_refused(
    tmp_path: Path, run_main: RunMain, fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path / "a.yaml", epochs=1)
    for arguments, message in (
        (["--data.keep_clean", "false"], "set data.keep_clean to true"),
        (["--model.finetune", "true"], "model.finetune: true needs model.start_from"),
        (["--model.start_from", fitted / "runs/tiny"], "is not of an Inpainter but of ResNetFSM"),
        (["--model.features", "gone.ckpt"], "gone.ckpt: no such file"),
        (["--model.width", "12"], "width: 12; give a multiple of 8"),
        (["--ckpt_path", fitted / "runs/tiny/checkpoints/last.ckpt"], "is not of an Inpainter"),
    ):
        assert message in refused(capsys, lambda given=arguments: run_main("fit", "--config", config, *given))  # type: ignore[misc]
    with pytest.raises(ValueError, match="in_channels=5: an Inpainter restores pictures"):
        Inpainter(in_channels=5)


def test_a_checkpoint_of_another_shape_and_predict_are_refused(
    tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path / "a.yaml", epochs=1)
    run_main("fit", "--config", config)
    line = refused(
        capsys, lambda: run_main("validate", "--config", config, "--ckpt_path", "last", "--model.width", 16)
    )
    assert "of another network (width=8; yours: width=16)" in line
    size = "--data.reader.size"
    line = refused(capsys, lambda: run_main("validate", "--config", config, "--ckpt_path", "last", size, 48))
    assert "input_size=32; yours: input_size=48" in line
    line = refused(capsys, lambda: run_main("predict", "--config", config, "--ckpt_path", "last"))
    assert "predict writes embeddings, Inpainter has none" in line


def test_feature_maps_are_the_backbones_and_stay_frozen() -> None:
    from lightning_app.networks import Backbone

    torch.manual_seed(0)
    backbone = Backbone("resnet18")
    backbone(torch.rand(8, 3, 64, 64))  # moves the running averages
    backbone.eval()
    maps = FeatureMaps(backbone).train()
    assert not any(m.training for m in maps.modules())
    assert not any(p.requires_grad for p in maps.parameters())
    picture = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found = maps(picture)
        x = picture * 2 - 1
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"):
            x = getattr(backbone, name)(x)
            if name.startswith("layer"):
                torch.testing.assert_close(found.pop(0), x)
    assert found == []
