"""What FaceVeil wrote before its modules moved into rooms is read after it.

`fixtures/before_rooms` was written at commit 6cb0020, on drawn faces: a `fit` of one epoch (ResNetFSM, resnet18 of
width 8, layer2, 32 px), its export, and a release of four images of 16 px. So that they pack well the weights of the
checkpoint were cut to three bits of mantissa, and its optimiser left out; `expected.npy` holds the embeddings that the
code of then gave with them for noise (seed 7) under the run's mask.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lightning_app import load_recogniser
from lightning_app.masks import load_mask
from lightning_app.models import checkpoints
from lightning_app.studies.audit import audit
from tests.command_line import RunMain, write_config

OLD = Path(__file__).parent / "fixtures" / "before_rooms"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixture, unpacked."""
    home = tmp_path_factory.mktemp("old") / "made"
    shutil.copytree(OLD, home)
    for packed in home.rglob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    return home


@pytest.mark.parametrize("file", ["run", "run/checkpoints/last.ckpt", "export/model.safetensors"])
def test_weights_give_the_embeddings_of_then(old: Path, file: str) -> None:
    model, facts = checkpoints.read_recogniser(old / file)
    assert (facts.model, facts.input_size) == ("ResNetFSM", 32)
    mask = load_mask(old / "export/mask.png", 32)
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(7)) * 2 - 1
    with torch.no_grad():
        found = model.embed(image * mask + (mask - 1), mask[None]).numpy()
    np.testing.assert_allclose(found, np.load(old / "expected.npy"), rtol=1e-4, atol=1e-5)


def test_the_run_goes_through_the_front_door(old: Path) -> None:
    loaded = load_recogniser(old / "run", desensitize=True)
    assert loaded.embed_images(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 64)
    card = json.loads((old / "export/card.json").read_text())
    assert f"{card['mask']['ratio']:.1%} of every image is hidden" in loaded.hides


def test_its_saved_config_is_a_config(old: Path, run_main: RunMain) -> None:
    run_main(
        "validate", "--config", old / "run/config.yaml", "--ckpt_path", "last", "--name", "run", "--runs", old
    )
    metrics = json.loads((old / "run/metrics.json").read_text())
    assert 0 <= metrics["lfw/accuracy"] <= 1
    assert metrics["val/loss"] > 0


def test_its_release_passes(old: Path) -> None:
    assert audit(str(old / "released"), ignore_times=True).findings == []


def test_the_old_class_path_of_the_logger_is_read(
    drawn_root: Path, run_main: RunMain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = {"class_path": "lightning_app.loggers.WandbLogger", "init_args": {"offline": True}}
    config = write_config(tmp_path / "old.yaml", drawn_root, trainer={"logger": [logger]})
    with pytest.raises(SystemExit) as stop:
        run_main("fit", "--config", config, "--print_config")
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["trainer"]["logger"][0]["class_path"].endswith("loggers.WandbLogger")
