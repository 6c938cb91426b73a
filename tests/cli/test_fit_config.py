"""What a `fit` config says of who verifies, also where that is a class of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from callbacks import LFWVerification
from lightning_app.cli.fit_config import _parsed, read_fit_settings, saved_measured

OWN = f"{__name__}.MyVerification"


class MyVerification(LFWVerification):
    """Verifies as ours does."""


def config_of(path: Path, verifier: str, folds: int) -> Path:
    """Write a fit config that verifies by a class on drawn pairs of so many folds."""
    pairs: dict[str, Any] = {
        "class_path": "datamodules.DrawnPairs",
        "init_args": {"size": 16, "identities": 4, "folds": folds, "pairs_per_fold": 4},
    }
    faces = {"class_path": "datamodules.DrawnFaces", "init_args": {"size": 16, "identities": 4}}
    config = {
        "trainer": {"callbacks": [{"class_path": verifier, "init_args": {"reader": pairs}}], "logger": False},
        "model": {"class_path": "lightning_app.models.ResNet", "init_args": {"width": 8, "input_size": 16}},
        "data": {"class_path": "datamodules.FaceDataModule", "init_args": {"reader": faces}},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize("verifier", ["callbacks.LFWVerification", OWN])
def test_who_verifies_on_which_pairs_is_found_whatever_the_class(verifier: str, tmp_path: Path) -> None:
    two, three = (
        read_fit_settings(["--config", str(config_of(tmp_path / f"{folds}.yaml", verifier, folds))])
        for folds in (2, 3)
    )
    assert two.verifier == (OWN if verifier == OWN else "")
    assert two.measured["verification"]["reader"]["init_args"]["folds"] == 2
    assert two.measured != three.measured


def test_what_is_read_again_is_parsed_once_and_made_anew(tmp_path: Path) -> None:
    config = config_of(tmp_path / "a.yaml", "callbacks.LFWVerification", 2)
    args = ["--config", str(config), "--seed_everything=3"]
    _parsed.cache_clear()
    first, again = read_fit_settings(args), read_fit_settings(args)
    assert (_parsed.cache_info().misses, _parsed.cache_info().hits) == (1, 1)
    assert first.data is not again.data
    assert first.model is not again.model
    assert first.description == again.description
    assert first.description is not again.description
    assert first.model is not None
    assert again.model is not None
    for one, other in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other), "the seed is set for each"


def test_what_has_changed_on_disk_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config given anew, and one of the same name in another folder."""
    monkeypatch.chdir(tmp_path)
    args = ["--config=a.yaml"]
    for folds in (2, 3):
        config_of(tmp_path / "a.yaml", "callbacks.LFWVerification", folds)
        found = read_fit_settings(args)
        assert found.measured["verification"]["reader"]["init_args"]["folds"] == folds
    config_of(tmp_path / "b" / "a.yaml", "callbacks.LFWVerification", 4)
    monkeypatch.chdir(tmp_path / "b")
    assert read_fit_settings(args).measured["verification"]["reader"]["init_args"]["folds"] == 4


def test_a_run_that_was_verified_by_a_class_of_ones_own_is_told_from_others(tmp_path: Path) -> None:
    mine = read_fit_settings(["--config", str(config_of(tmp_path / "mine.yaml", OWN, 2))])
    config_of(tmp_path / "same/config.yaml", OWN, 2)
    config_of(tmp_path / "ours/config.yaml", "callbacks.LFWVerification", 2)
    config_of(tmp_path / "other/config.yaml", OWN, 3)
    same, ours, other = (saved_measured(tmp_path / name, mine.verifier) for name in ("same", "ours", "other"))
    assert same is not None
    assert same["verification"]["class_path"] == mine.measured["verification"]["class_path"] == OWN
    assert ours is None, "its metrics are another class's"
    assert other is not None
    assert other["verification"]["reader"]["init_args"]["folds"] == 3
