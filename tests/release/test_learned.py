"""A release under a learned mask of the population: written, read, audited with the raw images, and forged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from datamodules import FaceDataModule, ReleasedFaces
from lightning_app.core.key_file import write_secret
from lightning_app.desensitize import LearnedMask, MaskOut
from lightning_app.masks import mask_hash
from lightning_app.release.audit.run import audit
from lightning_app.studies.audit import audit as audit_command
from tests.command_line import RunMain, refused
from tests.masker import write_masker
from tests.release.released import CROP, KEY, SIZE, raw_tree, release


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LearnedMask]:
    """A home with `raw` and `out`, and what it was desensitized by."""
    home = tmp_path_factory.mktemp("learned")
    learned = LearnedMask(write_masker(home / "masker.ckpt", size=SIZE), 0.24)
    release(home, raw_tree(home / "raw"), desensitizer=learned)
    return home, learned


def test_its_manifest(made: tuple[Path, LearnedMask]) -> None:
    home, learned = made
    description = json.loads((home / "out/manifest.json").read_text())["method"]
    assert description["method"] == "LearnedMask"
    assert (description["kind"], description["bits"], description["share"], description["faces"]) == (
        "population",
        0.0,
        0.24,
        40,
    )
    assert description["masker_hash"] == learned.describe()["masker_hash"]
    assert description["mask_ratio"] >= 0.76
    assert "masker.ckpt" not in (home / "out/manifest.json").read_text()


def test_its_audit_with_and_without_raw(made: tuple[Path, LearnedMask]) -> None:
    home, _ = made
    assert not audit(home / "out").findings
    write_secret(home / "key", KEY.hex().encode() + b"\n")
    audit_command(str(home / "out"), raw=str(home / "raw"), key=str(home / "key"), compare_all=True)


def test_it_is_read_as_any_release(made: tuple[Path, LearnedMask]) -> None:
    home, learned = made
    data = FaceDataModule(ReleasedFaces(home / "out"))
    assert isinstance(data.desensitizer, MaskOut)
    assert data.desensitizer.mask is not None
    assert learned.mask is not None
    assert mask_hash(data.desensitizer.mask) == mask_hash(learned.mask)


@pytest.mark.parametrize(("entry", "value"), [
    ("kind", "core_first"), ("bits", 3.0), ("share", 0.5), ("masker_hash", "me"), ("faces", 0), ("faces", 15),
    ("share", 0.1234567),
])  # fmt: skip
def test_a_forged_description_fails_the_audit(
    entry: str, value: object, made: tuple[Path, LearnedMask], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(made[0] / "out", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["method"][entry] = value
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    found = audit(folder)
    assert any("method" in str(finding) for finding in found.findings)


@pytest.mark.parametrize("kind", ["core_first", "codebook", "free"])
def test_the_command_refuses_a_chain_with_masks_for_each_image(
    kind: str,
    made: tuple[Path, LearnedMask],
    tmp_path: Path,
    run_main: RunMain,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home, _ = made
    learned = {"class_path": "lightning_app.desensitize.LearnedMask",
               "init_args": {"checkpoint": str(home / "masker.ckpt"), "kind": kind}}  # fmt: skip
    path = tmp_path / "chain.yaml"
    path.write_text(json.dumps({
        "reader": {"class_path": "datamodules.FolderFaces",
                   "init_args": {"root": str(home / "raw"), "crop": CROP, "size": SIZE}},
        "desensitizer": {"class_path": "lightning_app.desensitize.Chain", "init_args": {"steps": [learned]}},
        "output": str(tmp_path / "out"), "workers": 0,
    }))  # fmt: skip
    line = refused(capsys, lambda: run_main("desensitize", "--config", path))
    assert "desensitizer: Chain: its step LearnedMask gives each image a mask of its own" in line
    assert not (tmp_path / "out").exists()
