"""Eigenfaces of other people from the command line, and a release of faces with noise on them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from datamodules import FolderFaces
from lightning_app.core.key_file import make_key
from lightning_app.desensitize import EigenfaceNoise
from lightning_app.desensitize.eigenfaces import Eigenfaces
from lightning_app.studies.eigenfaces import others
from tests.command_line import RunMain, refused

READER = "datamodules.FolderFaces"


def faces_of(root: Path, people: Path | None = None) -> dict[str, Any]:
    named = {} if people is None else {"people": str(people)}
    return {"class_path": READER, "init_args": {"root": str(root), "crop": 44, "size": 32, **named}}


@pytest.fixture
def mine(tmp_path: Path, drawn_root: Path) -> Path:
    """A file of two people, whose faces are to be released."""
    people = sorted(folder.name for folder in drawn_root.iterdir() if folder.is_dir())[:2]
    (tmp_path / "mine.txt").write_text("\n".join(people))
    return tmp_path / "mine.txt"


def made(run_main: RunMain, tmp_path: Path, root: Path, mine: Path | None, **more: object) -> Path:
    config = tmp_path / "eigenfaces.yaml"
    apart = [] if mine is None else [faces_of(root, mine)]
    config.write_text(yaml.safe_dump({
        "reader": faces_of(root), "apart_from": apart, "output": "keys/eigen.safetensors", "components": 4, "side": 8,
        **more,
    }))  # fmt: skip
    run_main("eigenfaces", "--config", config)
    return Path("keys/eigen.safetensors")


def test_they_are_of_other_people(
    drawn_root: Path, tmp_path: Path, mine: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made(run_main, tmp_path, drawn_root, mine)
    assert re.search(r"people +4 *\n +images +32 ", capsys.readouterr().out)
    found = Eigenfaces.read(path)
    assert (found.components.shape, len(found.seen)) == ((4, 64), 32)
    make_key(tmp_path / "owner.key")
    noise = EigenfaceNoise(path, key=tmp_path / "owner.key")
    own = FolderFaces(drawn_root, mine, crop=44, size=32)
    batch = own.__getitems__(list(range(len(own))))
    assert noise({**batch, "image": batch["image"].float() / 255})["image"].shape == (16, 3, 32, 32)
    all_of_them = FolderFaces(drawn_root, crop=44, size=32).__getitems__(list(range(48)))
    with pytest.raises(ValueError, match="were made of 32 of these images"):
        noise({**all_of_them, "image": all_of_them["image"].float() / 255})
    line = refused(capsys, lambda: made(run_main, tmp_path, drawn_root, mine))
    assert "is there already: name another, or give --overwrite true" in line
    before = path.read_bytes()
    made(run_main, tmp_path, drawn_root, mine, overwrite=True)
    assert path.read_bytes() == before, "the same of the same faces"
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"a photo")
    line = refused(capsys, lambda: run_main(
        "eigenfaces", "--reader.class_path", "datamodules.FolderFaces", "--reader.init_args.root", drawn_root,
        "--reader.init_args.size", 32, "--output", photo, "--overwrite", "true",
    ))  # fmt: skip
    assert "give a name that ends in .safetensors" in line
    assert photo.read_bytes() == b"a photo"


def test_sets_they_cannot_be_made_of(
    drawn_root: Path, tmp_path: Path, mine: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(
        capsys, lambda: made(run_main, tmp_path, drawn_root, None, apart_from=[faces_of(drawn_root)])
    )
    assert "all of its 6 people are in a set of apart_from" in line
    line = refused(capsys, lambda: made(run_main, tmp_path, drawn_root, mine, components=9))
    assert "components: 9 of 32 images; give at least 4 images for each" in line
    nameless = FolderFaces(drawn_root, crop=44, size=32)
    nameless.labels = -torch.ones_like(nameless.labels)
    with pytest.raises(ValueError, match=r"apart_from\.0: FolderFaces does not say who is on its images"):
        others(FolderFaces(drawn_root, crop=44, size=32), [nameless])
    assert not Path("keys").exists()


@pytest.mark.parametrize("method", ["LaplaceNoise", "EigenfaceNoise"])
def test_a_release_says_its_budget_and_passes_its_audit(
    method: str,
    drawn_root: Path,
    tmp_path: Path,
    mine: Path,
    run_main: RunMain,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_key(tmp_path / "owner.key")
    settings: dict[str, Any] = {"epsilon": 3.0, "key": str(tmp_path / "owner.key")}
    if method == "EigenfaceNoise":
        settings["eigenfaces"] = str(made(run_main, tmp_path, drawn_root, mine))
    part = {"class_path": f"lightning_app.desensitize.{method}", "init_args": settings}
    config = tmp_path / "noisy.yaml"
    config.write_text(yaml.safe_dump({"reader": faces_of(drawn_root, mine), "desensitizer": part, "output": "out",
                                      "workers": 0}))  # fmt: skip
    run_main("desensitize", "--config", config)
    description = json.loads(Path("out/manifest.json").read_text())["method"]
    values = 3 * 32 * 32 if method == "LaplaceNoise" else 4
    assert (description["epsilon"], description["epsilon_image"], description["epsilon_total"]) == (
        3,
        3 * values,
        3 * values,
    )
    secret = (tmp_path / "owner.key").read_text().strip().encode()
    assert not [path for path in Path("out").rglob("*") if path.is_file() and secret in path.read_bytes()]
    capsys.readouterr()
    run_main("audit", "out", "--config", config, "--raw", drawn_root, "--key", "runs/noisy/pseudonyms.key")
    shown = capsys.readouterr().out
    assert "audit PASSED" in shown
    assert "16 released again" in shown
    make_key(tmp_path / "another.key")
    config.write_text(config.read_text().replace("owner.key", "another.key"))
    with pytest.raises(SystemExit):
        run_main(
            "audit", "out", "--config", config, "--raw", drawn_root, "--key", "runs/noisy/pseudonyms.key"
        )
    assert "its method is not that of --config" in " ".join(capsys.readouterr().out.split())
