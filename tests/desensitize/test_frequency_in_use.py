"""A recogniser of masked frequencies from `fit` to the card, by the shipped config at a tiny size."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from datamodules import DrawnFaces
from lightning_app import load_recogniser
from lightning_app.cli.configs import CONFIGS
from lightning_app.core.key_file import make_key
from lightning_app.desensitize import FrequencyMask
from tests.command_line import RunMain, refused

NAME = "lfwa_quick_frequency"


def tiny(root: Path, key: Path, **options: object) -> dict[str, Any]:
    """The shipped config on drawn faces: five steps of 8 images of 32 px."""
    config: dict[str, Any] = yaml.safe_load((CONFIGS / f"{NAME}.yaml").read_text())
    config["trainer"] |= {"accelerator": "cpu", "precision": "32-true", "max_epochs": 1, "log_every_n_steps": 1,
                          "limit_train_batches": 5, "check_val_every_n_epoch": 1}  # fmt: skip
    config["trainer"]["callbacks"] = [
        {"class_path": "callbacks.LFWVerification", "init_args": {"root": str(root), "bootstrap": 20, "flip": True}},
        {"class_path": "callbacks.DSSIMReport", "init_args": {"images": 4}},
        {"class_path": "callbacks.Pictures", "init_args": {"images": 2, "show_faces": True}},
    ]  # fmt: skip
    config["model"]["init_args"]["width"] = 8
    data = config["data"]["init_args"]
    data["global_batch_size"] = 8
    data["reader"]["init_args"] = {"root": str(root), "crop": 44, "size": 32}
    assert data["desensitizer"]["init_args"] == {"permutation": "fixed", "key": "keys/owner.key"}
    data["desensitizer"]["init_args"] |= {"key": str(key), **options}
    return config


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory, drawn_root: Path) -> Path:
    """A folder in which `fit` has run once, with the owner's key beside."""
    from main import main

    home = tmp_path_factory.mktemp("frequency")
    make_key(home / "owner.key")
    make_key(home / "other.key")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        config = home / f"{NAME}.yaml"
        config.write_text(yaml.safe_dump(tiny(drawn_root, home / "owner.key")))
        main(["fit", "--config", str(config), "--runs", str(home / "runs")])
    return home


def test_it_is_trained_verified_and_shown(fits: Path) -> None:
    run = fits / "runs" / NAME
    found = json.loads((run / "metrics.json").read_text())
    assert "lfw/accuracy_s1" in found
    assert not {"lfw/accuracy_s2", "lfw/accuracy_s3"} & {*found}
    assert 0 < found["privacy/dssim"] <= 2
    assert found["privacy/psnr"] < 20
    assert (run / "faces.png").stat().st_size > 0
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 5
    assert checkpoint["hyper_parameters"]["in_channels"] == 63
    description = checkpoint["FaceDataModule"]
    assert (description["mean"], description["std"]) == (0, 1)
    assert description["desensitizer"]["key_hash"] == FrequencyMask(key=fits / "owner.key").key.hash


def test_the_key_is_in_nothing_that_is_written(fits: Path) -> None:
    secret = (fits / "owner.key").read_text().strip().encode()
    files = [path for path in (fits / "runs").rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not [
        path
        for path in files
        if secret in path.read_bytes() or bytes.fromhex(secret.decode()) in path.read_bytes()
    ]


def test_it_is_validated_with_its_key_and_no_other(
    fits: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--config", fits / f"{NAME}.yaml", "--runs", fits / "runs", "--ckpt_path", "last"]
    before = json.loads((fits / "runs" / NAME / "metrics.json").read_text())
    run_main("validate", *given)
    after = json.loads((fits / "runs" / NAME / "metrics.json").read_text())
    assert after["lfw/accuracy"] == before["lfw/accuracy"]
    other = tmp_path / f"{NAME}.yaml"
    for key in (str(fits / "other.key"), None):
        config = yaml.safe_load((fits / f"{NAME}.yaml").read_text())
        config["data"]["init_args"]["desensitizer"]["init_args"]["key"] = key
        other.write_text(yaml.safe_dump(config))
        line = refused(capsys, lambda: run_main("validate", "--config", other, *given[2:]))
        assert "was trained with the owner's key" in line
        assert "give the file of that key" in line


def test_a_release_of_it_passes_its_audit(
    fits: Path, drawn_root: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "release.yaml"
    part = {
        "class_path": "lightning_app.desensitize.FrequencyMask",
        "init_args": {"key": str(fits / "owner.key")},
    }
    config.write_text(yaml.safe_dump({
        "name": "mine", "output": "released", "workers": 0, "desensitizer": part,
        "reader": {"class_path": "datamodules.FolderFaces",
                   "init_args": {"root": str(drawn_root), "size": 32, "crop": 44}},
    }))  # fmt: skip
    run_main("desensitize", "--config", config)
    out = capsys.readouterr().out
    said = " ".join(out.split())
    assert "63×32×32 uint8, value = (level − 128) / 16, 1 shard" in said
    told = re.search(
        r"^Next: python main\.py (audit released --config \S+ --key \S+)$", out, re.M
    )  # one line
    assert told is not None
    run_main(*told[1].split())  # as it stands there
    assert "audit PASSED" in " ".join(capsys.readouterr().out.split())
    run_main("audit", "released", "--config", config, "--key", "runs/mine/pseudonyms.key", "--all")
    said = " ".join(capsys.readouterr().out.split())
    assert "audit PASSED; 48 images of 6 identities in 1 shard decoded" in said
    assert "that no face can be made of it" in said
    part["init_args"] = {}
    config.write_text(
        yaml.safe_dump(yaml.safe_load(config.read_text()) | {"desensitizer": part, "output": "other"})
    )
    assert "none is given as a file" in refused(capsys, lambda: run_main("desensitize", "--config", config))
    assert not Path("other").exists()


def test_the_front_door(fits: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = fits / "runs" / NAME
    with caplog.at_level(logging.INFO, "faceveil"):
        loaded = load_recogniser(run, desensitize=True)
    assert "every image is desensitized by FrequencyMask, as in training" in caplog.text
    assert loaded.size == 32
    pixels = DrawnFaces(2, 2, 32).__getitems__([0, 1, 2])["image"]
    found = loaded.embed_images(pixels.permute(0, 2, 3, 1).numpy())
    made = FrequencyMask(key=fits / "owner.key")({"image": pixels.float() / 255, "index": torch.arange(3)})
    expected = torch.nn.functional.normalize(loaded.model.embed(made["image"], None, None))
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="takes 63 channels, which are no pictures"):
        load_recogniser(run, desensitize=False)
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    config = yaml.safe_load((moved / "config.yaml").read_text())
    config["data"]["init_args"]["desensitizer"]["init_args"]["key"] = str(fits / "other.key")
    (moved / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(
        ValueError, match=r"was trained with another owner's key than .* \(FrequencyMask \(key"
    ):
        load_recogniser(moved)
    os.remove(moved / "config.yaml")
    with pytest.raises(
        ValueError, match=r"no config\.yaml of its run tells its settings: give the run's folder$"
    ):
        load_recogniser(moved)


def test_it_is_compared(fits: Path, tmp_path: Path, run_main: RunMain) -> None:
    config = tmp_path / "compared.yaml"
    config.write_text(yaml.safe_dump({
        "name": "compared", "bootstrap": 20, "examples": 2, "device": "cpu", "judges": {}, "privacy_axis": "dssim",
        "methods": {"frequency": {"config": str(fits / f"{NAME}.yaml"),
                                  "checkpoint": str(fits / f"runs/{NAME}/checkpoints/last.ckpt")}},
    }))  # fmt: skip
    run_main("compare", "--config", config)
    found = json.loads(Path("runs/compared/metrics.json").read_text())
    own = json.loads((fits / "runs" / NAME / "metrics.json").read_text())
    assert found["compare/frequency/accuracy"] == own["lfw/accuracy"]
    assert isinstance(found["compare/frequency/dssim"], float)


@pytest.mark.slow
def test_its_card_says_how_an_image_becomes_the_input(fits: Path, tmp_path: Path, run_main: RunMain) -> None:
    run_main("export", "--ckpt_path", fits / "runs" / NAME, "--output", tmp_path / "out")
    card = json.loads((tmp_path / "out/card.json").read_text())
    wanted = {"channels": 63, "size": 32, "pixels": 32, "range": None, "mean": 0, "std": 1}
    assert {key: card["input"][key] for key in wanted} == wanted
    words = (tmp_path / "out/README.md").read_text()
    assert "no picture: a representation of one" in words
    assert "pixels in [0, 1] (a PNG's bytes / 255)" not in words
    assert "import onnxruntime" not in words, "an example that opens PNGs would be wrong"
    assert "their orthonormal DCT-II" in words
    assert "drawn from the owner's key" in words
    assert "resized to 32 px" in words
    assert '`lightning_app.load_recogniser("RUN")`, RUN being the folder of its training run' in words
    assert 'load_recogniser("model.safetensors")' not in words
    for path in (tmp_path / "out").iterdir():
        assert (fits / "owner.key").read_text().strip().encode() not in path.read_bytes()
    with pytest.raises(ValueError, match=r"no config\.yaml of its run tells its settings"):
        load_recogniser(tmp_path / "out/model.safetensors")
