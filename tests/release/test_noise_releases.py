"""Releases of methods with a privacy budget: drawn once from a key file, made again by its owner, used without it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from datamodules import FaceDataModule, ReleasedFaces, ReleasedPairs
from datamodules.drawing.pairs import DrawnPairs
from datamodules.readers.base import FaceReader
from lightning_app.core.key_file import make_key, write_secret
from lightning_app.desensitize import (
    DCTDP,
    Chain,
    Desensitizer,
    EigenfaceNoise,
    LaplaceNoise,
    MixUp,
    Mosaic,
    RandomMixUp,
)
from lightning_app.release.audit.run import audit
from lightning_app.release.format.keyed import WithoutKey
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.tensors import Layout, Stored
from lightning_app.studies.audit import audit as command
from tests.command_line import RunMain, refused
from tests.datamodules.test_released_tensors import DRAWN, config, release
from tests.desensitize.noisy import checkpoint, other_people
from tests.release.tensor_release import KEY, SIZE, put_hashes_right, reader_of, released

METHODS = ("LaplaceNoise", "EigenfaceNoise", "DCTDP")


def settings(home: Path, name: str) -> dict[str, Any]:
    """What the method of that name is made with, but for the owner's key."""
    if name == "EigenfaceNoise":
        return {"eigenfaces": str(home / "other.safetensors")}
    return {"checkpoint": str(home / "budget.ckpt")} if name == "DCTDP" else {}


def method(home: Path, name: str, **changed: Any) -> Desensitizer:
    kind: Any = {"LaplaceNoise": LaplaceNoise, "EigenfaceNoise": EigenfaceNoise, "DCTDP": DCTDP}[name]
    made: Desensitizer = kind(**{**settings(home, name), "key": home / "owner.key", **changed})
    return made


def pairs_reader() -> DrawnPairs:
    return DrawnPairs(4, 5, folds=2, pairs_per_fold=10, size=SIZE)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, drawn_root: Path) -> Path:
    """Of each method a release of 48 faces under its name, and one to verify on; nobody changes them."""
    home = tmp_path_factory.mktemp("noise")
    make_key(home / "owner.key")
    write_secret(home / "pseudonyms.key", KEY.hex().encode() + b"\n")
    other_people(home / "other.safetensors")
    checkpoint(home / "budget.ckpt")
    for name in METHODS:
        released(home, reader_of(drawn_root), name, method(home, name))
        released(home, pairs_reader(), f"{name} pairs", method(home, name))
    return home


def owners_config(home: Path, raw: Path | dict[str, Any], folder: Path, name: str, **changed: Any) -> str:
    """The config of `desensitize`."""
    init = {**settings(home, name), "key": str(home / "owner.key"), **changed}
    folders = {"class_path": "datamodules.FolderFaces",
               "init_args": {"root": str(raw), "crop": 44, "size": SIZE, "cache_index": False}}  # fmt: skip
    reader = raw if isinstance(raw, dict) else folders
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({
        "reader": reader,
        "desensitizer": {"class_path": f"lightning_app.desensitize.{name}", "init_args": init},
    }))  # fmt: skip
    return str(path)


@pytest.mark.parametrize("name", METHODS)
def test_it_passes_an_audit_and_its_owner_makes_it_again(
    home: Path, drawn_root: Path, tmp_path: Path, name: str
) -> None:
    assert audit(home / name).findings == []
    manifest = Manifest.read(home / name)
    assert (manifest.tensors is not None) == (name == "DCTDP")
    key = str(home / "pseudonyms.key")
    found = command(str(home / name), config=owners_config(home, drawn_root, tmp_path, name), key=key,
                    compare_all=True)  # fmt: skip
    assert found.findings == []
    assert found.compared is not None
    assert (found.compared.images, found.compared.apart) == (48, 0)
    # without the key nothing is made again, and that is a finding
    found = command(str(home / name), raw=str(drawn_root), key=key)
    assert [finding.what for finding in found.findings] == [
        "could not be compared with the raw set: give --config too, whose desensitizer names the owner's key file"
    ]
    make_key(tmp_path / "another.key")
    for other in ({"key": str(tmp_path / "another.key")}, {"key": None}):
        part = owners_config(home, drawn_root, tmp_path, name, **other)
        found = command(str(home / name), config=part, key=key, sample=4)
        assert f"its method is not that of --config's {name}: key_hash" in [
            one.what for one in found.findings
        ]


def test_a_release_of_coefficients_that_are_cut_off(home: Path, drawn_root: Path, tmp_path: Path) -> None:
    made = released(tmp_path, reader_of(drawn_root), "out", method(home, "DCTDP", clip=0.2))
    assert made.manifest.method["clip"] == 0.2
    part = owners_config(home, drawn_root, tmp_path, "DCTDP", clip=0.2)
    key = str(home / "pseudonyms.key")
    found = command(str(tmp_path / "out"), config=part, key=key, compare_all=True)
    assert found.findings == []
    assert found.compared is not None
    assert found.compared.images == 48
    part = owners_config(home, drawn_root, tmp_path, "DCTDP")
    found = command(str(tmp_path / "out"), config=part, key=key, sample=4)
    assert "its method is not that of --config's DCTDP: clip" in [one.what for one in found.findings]


@pytest.mark.parametrize(("steps", "words"), [(1, ""), (2, "differs by more than a level in 1 of")])
def test_a_tie_may_go_the_other_way_and_no_further(
    home: Path, drawn_root: Path, tmp_path: Path, steps: int, words: str
) -> None:
    """Values are rounded to steps of the method's own; near 0 float16 has hundreds of levels within one of them."""
    root = Path(shutil.copytree(home / "DCTDP", tmp_path / "out"))
    path = root / "shards" / "000000.safetensors"
    values = {name: value.copy() for name, value in load_file(path).items()}
    own = method(home, "DCTDP").own_steps(SIZE)
    assert own is not None
    image = values["image"]  # of all values the one that lies nearest to 0, in steps of its channel
    near = np.unravel_index((np.abs(image) / own.numpy()[:, None, None]).argmin(), image.shape)
    before = float(image[near])
    away = np.float16(before + steps * float(own[near[1]]) * (1 if before >= 0 else -1))
    assert abs(int(away.view(np.int16)) - int(image[near].view(np.int16))) > 20
    image[near] = away
    manifest = Manifest.read(root)
    assert manifest.tensors is not None
    layout = Layout.of(manifest.tensors.stored, 1, len(values["name"]))
    path.write_bytes(layout.head + b"".join(values[name].tobytes() for name in layout.parts))
    put_hashes_right(root)
    found = command(str(root), config=owners_config(home, drawn_root, tmp_path, "DCTDP"), ignore_times=True,
                    key=str(home / "pseudonyms.key"), compare_all=True)  # fmt: skip
    told = " ".join(finding.what for finding in found.findings)
    assert words in told
    assert bool(told) == bool(words)
    assert found.compared is not None
    assert found.compared.apart == (0 if words else 1)


@pytest.mark.parametrize("name", METHODS)
def test_it_is_drawn_once_from_a_file(home: Path, drawn_root: Path, tmp_path: Path, name: str) -> None:
    raw = reader_of(drawn_root)
    for reader in (raw, pairs_reader()):
        with pytest.raises(
            ValueError, match=f"{name} draws from the owner's key, and none is given as a file"
        ):
            released(tmp_path, reader, "out", method(home, name, key=None))
        with pytest.raises(ValueError, match=f"{name} has redraw: epoch, and a release is drawn once"):
            released(tmp_path, reader, "out", method(home, name, redraw="epoch"))
    inside = tmp_path / "out"
    inside.mkdir()
    make_key(inside / "owner.key")
    with pytest.raises(ValueError, match="lies in the released folder"):
        released(tmp_path, raw, "out", method(home, name, key=inside / "owner.key"))
    (inside / "owner.key").unlink()
    with pytest.raises(ValueError, match="epsilon 51 adds noise of"):
        released(tmp_path, raw, "out", method(home, name, epsilon=51.0))
    assert not list(inside.iterdir())


def test_a_chain_is_as_its_steps(home: Path, drawn_root: Path, tmp_path: Path) -> None:
    raw, key = reader_of(drawn_root), home / "owner.key"
    with pytest.raises(ValueError, match="none is given as a file"):
        released(tmp_path, raw, "out", Chain([Mosaic(8), LaplaceNoise()]))
    with pytest.raises(ValueError, match="LaplaceNoise has redraw: epoch"):
        released(tmp_path, raw, "out", Chain([LaplaceNoise(redraw="epoch", key=key), Mosaic(8)]))
    released(tmp_path, raw, "pictures", Chain([LaplaceNoise(key=key), Mosaic(8)]))
    assert audit(tmp_path / "pictures").findings == []
    mixes: list[tuple[str, Desensitizer]] = [("LaplaceNoise", LaplaceNoise(key=key)),
                                             ("DCTDP", method(home, "DCTDP", epsilon=0.01))]  # fmt: skip
    for name, step in mixes:
        mixed = Chain([step, MixUp(k=2, key=key)])
        assert len(mixed.owner_keys()) == 1
        released(tmp_path, raw, name, mixed, rows=24, mix_once=True)
        assert audit(tmp_path / name).findings == []
        data = FaceDataModule(ReleasedFaces(tmp_path / name))
        assert (data.desensitizer.is_image, data.desensitizer.lacks_key) == (name == "LaplaceNoise", True)
        assert (data.mean, data.std) == ((0.5, 0.5) if name == "LaplaceNoise" else (0, 1))
        told = json.loads((tmp_path / name / "manifest.json").read_text())["method"]
        told["steps"][0] |= {"epsilon_image": 0.1, "epsilon_total": 0.1}
        put_hashes_right(tmp_path / name, method=told)
        said = " ".join(finding.what for finding in audit(tmp_path / name).findings)
        assert "epsilon_image is 0.1, its values come to" in said
    make_key(tmp_path / "other.key")
    two = Chain([LaplaceNoise(key=key), MixUp(k=2, key=tmp_path / "other.key")])
    with pytest.raises(
        ValueError, match=r"its steps have keys of their own: a chain is one owner's, and has one key"
    ):
        released(tmp_path, raw, "out", two, rows=24, mix_once=True)
    with pytest.raises(
        ValueError, match=r"epsilon is 1\.2345678, not a number above 0 of 6 decimals at most"
    ):
        released(tmp_path, raw, "out", LaplaceNoise(1.2345678, key=key))
    with pytest.raises(ValueError, match="RandomMixUp: every batch is mixed of another number of images"):
        released(tmp_path, raw, "out", Chain([LaplaceNoise(key=key), RandomMixUp(key=key)]), mix_once=True)


def test_what_float16_cannot_hold_is_cut_off_and_counted(
    home: Path, drawn_root: Path, tmp_path: Path
) -> None:
    """The scale of the noise is up to 10⁵ at ε = 0.01, with all of the budget for one channel."""
    logits = torch.zeros(15).index_fill_(0, torch.tensor(3), 1e4)
    uneven = checkpoint(tmp_path / "uneven.ckpt", logits)
    drawn = reader_of(drawn_root)
    noisy = {"epsilon": 0.01, "checkpoint": str(uneven)}
    made = released(tmp_path, drawn, "out", method(home, "DCTDP", **noisy))
    raw = drawn.__getitems__(range(len(drawn)))["image"]
    values = FaceDataModule(drawn, method(home, "DCTDP", **noisy)).desensitized(raw)["image"]
    share = float((values.abs() > 65504).float().mean())
    assert made.clipped == pytest.approx(share)
    assert share > 0.1
    stored = [load_file(path)["image"] for path in (tmp_path / "out" / "shards").iterdir()]
    assert max(float(abs(one).max()) for one in stored) == 65504
    found = command(str(tmp_path / "out"), key=str(home / "pseudonyms.key"),
                    config=owners_config(home, drawn_root, tmp_path, "DCTDP", **noisy))  # fmt: skip
    assert found.findings == []
    assert released(tmp_path, drawn, "plain", method(home, "DCTDP")).clipped == 0
    half = Stored("float16", (1, 1, 4))
    kept, count = half.store(torch.tensor([[[[-1e6, 65504.0, 65505.0, -0.0]]]]), cut=True)
    assert (kept.ravel().tolist(), count) == ([-65504, 65504, 65504, 0], 2)


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("DCTDP", {"epsilon_image": 4.0}, "epsilon_image is 4.0, its values come to 2880 together"),
        ("DCTDP", {"epsilon_total": None}, "epsilon_total is null, its values come to 2880 together"),
        ("DCTDP", {"redraw": "epoch"}, "has redraw: epoch, and a release is drawn once"),
        ("DCTDP", {"block": 5}, "cannot be made from its description"),
        ("LaplaceNoise", {"epsilon_image": 4.0}, "is not what LaplaceNoise says of itself"),
        ("LaplaceNoise", {"redraw": "epoch"}, "has redraw: epoch, and a release is drawn once"),
    ],
)
def test_a_forged_budget_is_found(
    home: Path, tmp_path: Path, name: str, changed: dict[str, Any], words: str
) -> None:
    root = Path(shutil.copytree(home / name, tmp_path / name))
    told = json.loads((root / "manifest.json").read_text())["method"]
    put_hashes_right(root, method=told | changed)
    assert words in " ".join(finding.what for finding in audit(root).findings)


@pytest.mark.parametrize("name", METHODS)
def test_who_has_no_key_verifies_on_a_release(home: Path, tmp_path: Path, name: str) -> None:
    assert audit(home / f"{name} pairs").findings == []
    reader = ReleasedPairs(home / f"{name} pairs")
    assert len(reader.pairs) == 20 * 2
    theirs = reader.desensitizer()
    assert isinstance(theirs, WithoutKey)
    assert theirs.called == theirs.describe()["method"]  # what messages speak of
    # pixels of the pairs, drawn by the same key, are those of the method itself
    raw: FaceReader = pairs_reader()
    images = raw.__getitems__(range(len(raw)))["image"]
    made = FaceDataModule(raw, method(home, name)).desensitized(images)["image"]
    stored = reader.stored
    assert stored is not None
    found = stored.values(reader.__getitems__(range(len(reader)))["image"])
    assert found.shape == made.shape
    # pseudonyms give another order; by their means, two images may change places where float16 rounds them
    nearest = torch.cdist(found.flatten(1).double(), made.flatten(1).double()).argmin(1)
    assert sorted(nearest.tolist()) == list(range(len(made)))
    torch.testing.assert_close(found, made[nearest], rtol=1e-3, atol=1e-3)
    again = command(str(home / f"{name} pairs"), key=str(home / "pseudonyms.key"),
                    config=owners_config(home, DRAWN, tmp_path, name), compare_all=True)  # fmt: skip
    assert again.findings == []
    assert again.compared is not None
    assert (again.compared.images, again.compared.apart) == (len(reader), 0)


@pytest.mark.parametrize("name", ["LaplaceNoise", "DCTDP"])
def test_a_trainer_without_the_key(
    home: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    own = config(
        tmp_path / "tiny.yaml", release(home / name), release(home / f"{name} pairs", "ReleasedPairs")
    )
    if name == "LaplaceNoise":  # of channels tests/datamodules/test_released_tensors.py does it
        run_main("fit", "--config", own)
        metrics = json.loads(Path("runs/tiny/metrics.json").read_text())
        assert "lfw/accuracy_s1" in metrics
        assert "lfw/accuracy_s3" not in metrics
    raw = config(tmp_path / "raw.yaml", release(home / name), DRAWN)
    assert f"made by {name} with the owner's key, which is not here" in refused(
        capsys, lambda: run_main("fit", "--config", raw)
    )
    others = release(home / ("DCTDP pairs" if name != "DCTDP" else "EigenfaceNoise pairs"), "ReleasedPairs")
    raw = config(tmp_path / "others.yaml", release(home / name), others)
    assert "verify on a release by the same method and key" in refused(
        capsys, lambda: run_main("fit", "--config", raw)
    )


def test_noise_of_ones_own_key_to_verify_raw_images(home: Path, tmp_path: Path) -> None:
    make_key(tmp_path / "mine.key")
    data = FaceDataModule(
        ReleasedFaces(home / "LaplaceNoise", own_desensitizer=LaplaceNoise(3.0, key=tmp_path / "mine.key"))
    )
    assert data.desensitized(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8))["image"].any()
    with pytest.raises(ValueError, match="was released by LaplaceNoise, of other settings"):
        FaceDataModule(ReleasedFaces(home / "LaplaceNoise", own_desensitizer=LaplaceNoise(4.0)))
