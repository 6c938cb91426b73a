"""IR-SE-50 and ArcFace from `fit` to what is handed on, small and on drawn faces."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml

from lightning_app.core.batch import Batch
from lightning_app.models import ResNet
from lightning_app.models.checkpoints import read_recogniser
from lightning_app.networks import IRSE50, ArcFaceHead
from tests.command_line import RunMain, clean_config, refused
from tests.small_run import state

LAST = Path("checkpoints/last.ckpt")


class Watch(L.Callback):
    """Writes down the margin and scale of every step, and copies the checkpoint of the first epoch."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        head = pl_module.head
        assert isinstance(head, ArcFaceHead)
        with (self.folder / "margins.txt").open("a") as stream:
            print(json.dumps([trainer.global_step - 1, head.margin, head.scale]), file=stream)
        first = self.folder / "first.ckpt"
        if trainer.current_epoch == 1 and not first.exists():
            shutil.copy(Path(trainer.default_root_dir) / LAST, first)


def _config(home: Path, root: Path) -> Path:
    text = yaml.safe_load(clean_config(home / "margin.yaml", root).read_text())
    text["trainer"]["callbacks"] = [{"class_path": f"{__name__}.Watch", "init_args": {"folder": str(home)}}]
    text["model"]["init_args"] = {
        "backbone": {"class_path": "lightning_app.networks.IRSE50", "init_args": {"width": 8}},
        "head": {"class_path": "lightning_app.networks.ArcFaceHead", "init_args": {"s": 16.0, "m": 0.3}},
        "lr": 0.05, "schedule": "one_cycle",
    }  # fmt: skip
    (home / "margin.yaml").write_text(yaml.safe_dump(text))
    return home / "margin.yaml"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, drawn_root: Path) -> Path:
    """A folder in which two epochs were fitted, with a ramp from the command line."""
    from main import main

    home = tmp_path_factory.mktemp("margin")
    ramp = ("--model.head.init_args.ramp", "0.5", "--model.head.init_args.s_start", "8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        main(["fit", "--config", str(_config(home, drawn_root)), "--runs", str(home / "runs"), *ramp])
    return home


def test_the_margin_follows_the_steps(fitted: Path) -> None:
    steps = [json.loads(line) for line in (fitted / "margins.txt").read_text().splitlines()]
    total = len(steps)
    assert total >= 4
    for number, (step, margin, scale) in enumerate(steps):
        risen = min(2 * number / total, 1)
        assert (step, margin, scale) == pytest.approx((number, 0.3 * risen, 8 + 8 * risen))


def test_what_is_saved_is_read_without_trust(fitted: Path) -> None:
    model, facts = read_recogniser(fitted / "runs/margin")
    assert isinstance(model, ResNet)
    assert isinstance(model.backbone, IRSE50)
    assert isinstance(model.head, ArcFaceHead)
    assert (model.head.s, model.head.m, model.head.ramp, model.head.num_classes) == (16.0, 0.3, 0.5, 6)
    assert (model.backbone.dim, facts.input_size) == (64, 32)
    assert model.embed(torch.randn(2, 3, 32, 32)).shape == (2, 64)


def test_going_on_gives_the_same_bits(
    fitted: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dropout within the backbone and the margin are functions of the step."""
    run = fitted / "runs/margin"
    given = ("--config", run / "config.yaml", "--runs", tmp_path, "--name", "again")
    run_main("fit", *given, "--ckpt_path", fitted / "first.ckpt")
    whole, again = state(run / LAST), state(tmp_path / "again" / LAST)
    weights = [key for key in whole if key.startswith(("/state_dict", "/optimizer_states"))]
    assert len(weights) > 100
    assert [key for key in weights if whole[key] != again.get(key)] == []
    run_main("validate", *given, "--ckpt_path", "last")
    metrics = json.loads((tmp_path / "again/metrics.json").read_text())
    assert metrics["val/loss"] > 0
    line = refused(
        capsys, lambda: run_main("validate", *given, "--ckpt_path", "last", "--model.head.init_args.m", "0.1")
    )
    assert (
        "this checkpoint has another head (ArcFaceHead; yours: ArcFaceHead, or other settings of it)" in line
    )


def test_the_second_papers_whole_chain_trains(
    fitted: Path, drawn_root: Path, tmp_path: Path, run_main: RunMain
) -> None:
    """Frequency channels, three faces a mix, IR-SE-50, ArcFace with mixed labels; verified unmixed."""
    text = yaml.safe_load((fitted / "margin.yaml").read_text())
    method = "lightning_app.desensitize"
    steps = [
        {"class_path": f"{method}.FrequencyMask"},
        {"class_path": f"{method}.MixUp", "init_args": {"k": 3}},
    ]
    text["data"]["init_args"] |= {
        "global_batch_size": 8,
        "desensitizer": {"class_path": f"{method}.Chain", "init_args": {"steps": steps}},
    }
    text["trainer"] |= {"max_epochs": 1, "limit_train_batches": 5, "callbacks": [
        {"class_path": "callbacks.LFWVerification", "init_args": {"root": str(drawn_root), "bootstrap": 20}}
    ]}  # fmt: skip
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump(text))
    run_main("fit", "--config", tmp_path / "chain.yaml", "--runs", tmp_path / "runs")
    metrics = json.loads((tmp_path / "runs/chain/metrics.json").read_text())
    assert 0 <= metrics["lfw/accuracy"] <= 1
    model, facts = read_recogniser(tmp_path / "runs/chain")
    assert (facts.in_channels, facts.step) == (63, 5)
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
