from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules import Augment, FaceDataModule, FolderFaces, ReleasedFaces
from datamodules.readers.bad_images import BadImage
from datamodules.readers.base import FaceReader, whole
from lightning_app.core.batch import Batch
from lightning_app.desensitize import Desensitizer, GaussianBlur, Identity, MaskOut, Mosaic
from lightning_app.masks import mask_hash
from lightning_app.release.format import manifest as manifests
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.pseudonyms import Pseudonyms
from tests.command_line import RunMain, refused, write_config
from tests.release.by_hand import CROP, KEY, SIZE, blur, oval, write_release


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, drawn_root: Path) -> Path:
    """Releases of the 6 drawn people, under a mask and blurred."""
    home = tmp_path_factory.mktemp("made")
    write_release(home / "masked", drawn_root)
    write_release(home / "blurred", drawn_root, blur())
    return home


@pytest.fixture
def spoilt(made: Path, tmp_path: Path) -> Path:
    """A copy of the masked release to spoil."""
    return Path(shutil.copytree(made / "masked", tmp_path / "masked"))


def everything(reader: FaceReader) -> Batch:
    return reader.__getitems__(range(len(reader)))


def own(data: FaceDataModule, batch: Batch, training: bool) -> Batch:
    """What the DataModule makes of a batch of its reader, on its way to a model."""

    class Strategy:
        class precision_plugin:
            @staticmethod
            def convert_input(batch: Batch) -> Batch:
                return batch

    trainer: Any = type("Trainer", (Strategy,), {})()
    trainer.training, trainer.current_epoch, trainer.global_step = training, 3, 7
    data.trainer = trainer
    return data.on_after_batch_transfer(batch, 0)


def test_a_release_is_read_back(made: Path, drawn_root: Path) -> None:
    reader = ReleasedFaces(made / "masked").open()
    assert (len(reader), reader.size, reader.crop) == (48, SIZE, CROP)
    assert reader.identities == sorted(Pseudonyms(KEY).identity(f"Drawn_{i:05d}") for i in range(6))
    assert torch.bincount(reader.labels).tolist() == [8] * 6
    batch = everything(reader)
    assert batch["image"].shape == (48, 3, SIZE, SIZE)
    assert not (batch["image"] * (1 - oval()).to(torch.uint8)).any()
    loader: DataLoader[Batch] = DataLoader(reader, batch_size=16, collate_fn=whole, num_workers=1)
    assert torch.equal(torch.cat([b["image"] for b in loader]), batch["image"])


def test_few_images_of_few_people(made: Path) -> None:
    reader = ReleasedFaces(made / "masked", max_images=2).open()
    assert torch.bincount(reader.labels).tolist() == [2] * 6
    with pytest.raises(ValueError, match="min_images=9"):
        ReleasedFaces(made / "masked", min_images=9).open()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("method", ["masked", "blurred"])
def test_batches_equal_those_made_on_the_fly(
    made: Path, drawn_root: Path, method: str, training: bool
) -> None:
    """Bit for bit, `image` and `mask`, with the same draws (design, section 3)."""
    released = ReleasedFaces(made / method).open()
    raw = FolderFaces(drawn_root, size=SIZE, crop=CROP, cache_index=False).open()
    names = Pseudonyms(KEY)
    where = {Path(released.name(i)).stem: i for i in range(len(released))}
    order = [
        where[names.image(raw.identities[int(raw.labels[i])], raw.stable_name(i))] for i in range(len(raw))
    ]
    there = released.__getitems__(order)
    there["index"] = torch.arange(len(raw))  # draws are by number; the release's order is another one
    augment = Augment(flip=0.5, rotate=10, shift=0.1, light=0.1)
    desensitizer: Desensitizer = MaskOut(made / "masked" / "mask.png") if method == "masked" else blur()
    theirs = own(FaceDataModule(raw, desensitizer, augment, seed=5), everything(raw), training)
    ours = own(FaceDataModule(released, augment=augment, seed=5), there, training)
    assert torch.equal(ours["image"], theirs["image"])
    assert torch.equal(ours["mask_index"], theirs["mask_index"])
    a, b = ours["mask"], theirs["mask"]
    if method == "blurred":
        assert a is None
        assert b is None
    else:
        assert a is not None
        assert b is not None
        assert torch.equal(a, b)
    people: dict[int, int] = {}  # classes are others, but the same people share one
    for mine, other in zip(ours["identity"].tolist(), theirs["identity"].tolist(), strict=True):
        assert people.setdefault(mine, other) == other
    assert len(set(people.values())) == 6


def test_clean_images_are_desensitized_as_the_release_was(made: Path) -> None:
    clean = torch.randint(0, 256, (3, 3, SIZE, SIZE), dtype=torch.uint8)
    for method, desensitizer in (("masked", None), ("blurred", blur())):
        data = FaceDataModule(ReleasedFaces(made / method))
        assert data.released
        assert data.desensitizer.hides
        wanted = clean * oval().to(torch.uint8)
        if desensitizer is not None:
            wanted = (desensitizer.desensitize(clean.float() / 255) * 255).round().to(torch.uint8)
        desensitized = data.desensitized(clean)
        assert torch.equal((desensitized["image"] * 255).round().to(torch.uint8), wanted)
        assert (desensitized["mask"] is None) == (method == "blurred")


def test_a_release_has_no_raw_samples_but_those_verified_on(made: Path, drawn_root: Path) -> None:
    data = FaceDataModule(ReleasedFaces(made / "masked"), val_share=0.5)
    data.setup("fit")
    assert data.held_out is not None
    assert data.raw_samples(4).shape == (0, 3, SIZE, SIZE)
    data.verification.append(FolderFaces(drawn_root, size=SIZE, crop=CROP, cache_index=False))
    assert data.raw_samples(4).shape == (4, 3, SIZE, SIZE)
    assert (data.raw_samples(4) * (1 - oval()).to(torch.uint8)).any()


def test_another_desensitizer_is_refused_and_the_same_taken(made: Path) -> None:
    same = MaskOut(made / "masked" / "mask.png")
    data = FaceDataModule(ReleasedFaces(made / "masked"), same)
    assert data.desensitizer.describe()["mask_hash"] == mask_hash(oval())
    FaceDataModule(ReleasedFaces(made / "blurred"), GaussianBlur(9))
    for reader, other in (
        ("masked", MaskOut(freeform=(0.5, 0.6))),
        ("masked", Identity()),
        ("blurred", GaussianBlur(18)),
        ("blurred", same),
    ):
        with pytest.raises(ValueError, match=r"data\.desensitizer: the released set was desensitized by"):
            FaceDataModule(ReleasedFaces(made / reader), other)


class Inverted(Desensitizer):
    """A desensitizer of one's own."""

    def desensitize(self, image: Tensor) -> Tensor:
        return 1 - image


def test_a_method_of_ones_own_is_given_to_the_reader(drawn_root: Path, tmp_path: Path) -> None:
    write_release(tmp_path / "own", drawn_root, Inverted())
    with pytest.raises(ValueError, match="released by Inverted, which cannot be made from its description"):
        FaceDataModule(ReleasedFaces(tmp_path / "own"))
    data = FaceDataModule(ReleasedFaces(tmp_path / "own", own_desensitizer=Inverted()))
    assert isinstance(data.desensitizer, Inverted)
    with pytest.raises(ValueError, match=r"own_desensitizer=Mosaic: .* was released by Inverted"):
        FaceDataModule(ReleasedFaces(tmp_path / "own", own_desensitizer=Mosaic(8)))


def change_a_byte(root: Path) -> None:
    one = next((root / "images").rglob("*.png"))
    data = bytearray(one.read_bytes())
    data[-20] ^= 1
    one.write_bytes(bytes(data))


def add_a_file(root: Path) -> None:
    (root / "notes.txt").write_text("x")


def remove_a_file(root: Path) -> None:
    next((root / "images").rglob("*.png")).unlink()


def rename_a_file(root: Path) -> None:
    one = next((root / "images").rglob("*.png"))
    one.rename(one.with_name("0" * 20 + ".png"))


def link_a_file(root: Path) -> None:
    one = next((root / "images").rglob("*.png"))
    one.rename(root.parent / "elsewhere.png")
    one.symlink_to(root.parent / "elsewhere.png")


def remove_the_manifest(root: Path) -> None:
    (root / "manifest.json").unlink()


def count_wrongly(root: Path) -> None:
    path = root / "manifest.json"
    path.write_text(path.read_text().replace('"images": 48', '"images": 47'))


def change_the_mask(root: Path) -> None:
    (root / "mask.png").write_bytes((root / "mask.png").read_bytes() + b"x")


SPOILT: dict[str, tuple[Any, str]] = {
    "byte": (change_a_byte, "its SHA-256 is not the manifest's"),
    "stray": (add_a_file, "notes.txt is a file that the manifest does not list"),
    "missing": (remove_a_file, "is missing"),
    "renamed": (rename_a_file, "is a file that the manifest does not list"),
    "link": (link_a_file, "is a symbolic link"),
    "manifest": (remove_the_manifest, "has no manifest.json"),
    "counts": (count_wrongly, "images is 47, but its files have 48"),
    "mask": (change_the_mask, "is not the mask that the manifest gives"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_is_not_as_its_manifest_says_is_refused(spoilt: Path, case: str) -> None:
    spoil, words = SPOILT[case]
    spoil(spoilt)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        FaceDataModule(ReleasedFaces(spoilt)).setup("fit")


def test_the_list_alone_is_compared_where_asked(spoilt: Path) -> None:
    change_a_byte(spoilt)
    FaceDataModule(ReleasedFaces(spoilt, verify="list")).setup("fit")
    remove_a_file(spoilt)
    with pytest.raises(ValueError, match=r"is missing; see `python main\.py audit"):
        FaceDataModule(ReleasedFaces(spoilt, verify="list")).setup("fit")


def make_sparse(path: Path) -> None:
    """It takes no room on a disk, and more than any memory once it is read."""
    with path.open("r+b") as file:
        file.truncate(10**12)


@pytest.mark.skipif(os.name != "posix", reason="pipes and sparse files are POSIX's")
def test_no_more_is_read_of_a_file_than_such_a_one_has(spoilt: Path, tmp_path: Path) -> None:
    reader = ReleasedFaces(spoilt, verify="list", on_bad_image="error").open()
    image = Path(reader.name(3))
    make_sparse(image)
    with pytest.raises(
        BadImage, match=rf"{image.name}: is larger than \d+ bytes, which no such file of ours is"
    ):
        reader.read(3)
    manifest = spoilt / "manifest.json"
    make_sparse(manifest)
    with pytest.raises(
        ValueError, match=r"manifest\.json: is larger than 1 MB, which no such file of ours is"
    ):
        ReleasedFaces(spoilt)
    (manifest.rename(tmp_path / "pipe")).unlink()
    os.mkfifo(manifest)
    with pytest.raises(FileNotFoundError, match=r"has no manifest\.json"):
        ReleasedFaces(spoilt)


def test_a_long_manifest_of_many_files_is_read(spoilt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "_ENOUGH", 100)
    assert ReleasedFaces(spoilt).manifest.images == 48


def test_a_signature_is_asked_for(made: Path, spoilt: Path, tmp_path: Path) -> None:
    from lightning_app.release.format.signing import load_signing_key, make_signing_key, sign

    public = tmp_path / "sign.pub"
    owner = make_signing_key(tmp_path / "sign")
    with pytest.raises(ValueError, match="is not signed by the owner of"):
        ReleasedFaces(spoilt, public_key=public)
    old = Manifest.read(spoilt)
    facts = {name: getattr(old, name) for name in Manifest.__dataclass_fields__}
    content = Manifest(**(facts | {"signer": owner})).to_bytes()
    (spoilt / "manifest.json").write_bytes(content)
    (spoilt / "manifest.sig").write_text(sign(content, load_signing_key(tmp_path / "sign")))
    assert len(ReleasedFaces(spoilt, public_key=public).open()) == 48
    (spoilt / "manifest.sig").write_text("ab" * 64 + "\n")
    with pytest.raises(ValueError, match="does not hold"):
        ReleasedFaces(spoilt, public_key=public)


def test_the_mask_that_was_agreed_on(made: Path, spoilt: Path) -> None:
    """A recipient says which mask, or how much it must hide, as an auditor and an owner do."""
    root, ratio = made / "masked", 1 - oval().mean().item()
    FaceDataModule(ReleasedFaces(root, mask_hash=mask_hash(oval()), min_mask_ratio=0.7))
    with pytest.raises(
        ValueError, match=r"mask\.png is not the mask that was agreed on \(data\.reader.*mask_hash=abab"
    ):
        ReleasedFaces(root, mask_hash="ab" * 32)
    with pytest.raises(
        ValueError, match=rf"hides {ratio:.4f} of the pixels, less than .*min_mask_ratio=0\.75"
    ):
        ReleasedFaces(root, min_mask_ratio=0.75)
    for asked in ({"mask_hash": mask_hash(oval())}, {"min_mask_ratio": 0.0}):
        (key,) = asked
        with pytest.raises(
            ValueError, match=rf"blurred has no mask, and data\.reader\.init_args\.{key} asks for one"
        ):
            ReleasedFaces(made / "blurred", **asked)
    with pytest.raises(ValueError, match=r"mask_hash='ab12': give 64 hexadecimal digits"):
        ReleasedFaces(root, mask_hash="ab12")
    with pytest.raises(ValueError, match=r"min_mask_ratio=75: give a share in \[0,1\]"):
        ReleasedFaces(root, min_mask_ratio=75)
    path = spoilt / "manifest.json"  # which lies about both
    old = Manifest.read(spoilt).mask
    assert old is not None
    path.write_text(
        path.read_text().replace(old.mask_hash, "ab" * 32).replace(f": {old.mask_ratio!r}", ": 0.9")
    )
    with pytest.raises(ValueError, match="is not the mask that was agreed on"):
        ReleasedFaces(spoilt, mask_hash="ab" * 32)
    with pytest.raises(ValueError, match=rf"hides {ratio:.4f} of the pixels, less than"):
        ReleasedFaces(spoilt, min_mask_ratio=0.8)


def released_config(path: Path, root: Path, release: Path, model: str) -> Path:
    """The tiny `fit`, on a released set, verified on the clean tree."""
    config = yaml.safe_load(write_config(path, root, model).read_text())
    config["data"]["init_args"]["reader"] = {
        "class_path": "datamodules.ReleasedFaces",
        "init_args": {"root": str(release)},
    }
    del config["data"]["init_args"]["desensitizer"]
    config["trainer"]["max_epochs"] = 1
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize(("method", "model"), [("masked", "ResNetFSM"), ("blurred", "ResNetMask")])
def test_fit_and_validate_on_a_release(
    made: Path, drawn_root: Path, tmp_path: Path, run_main: RunMain, caplog: pytest.LogCaptureFixture,
    method: str, model: str,
) -> None:  # fmt: skip
    config = released_config(tmp_path / "tiny.yaml", drawn_root, made / method, model)
    run_main("fit", "--config", config)
    metrics = json.loads(Path("runs/tiny/metrics.json").read_text())
    assert {"lfw/accuracy_s1", "lfw/accuracy_s3", "val/accuracy", "privacy/dssim"} <= metrics.keys()
    assert metrics["privacy/dssim"] > 0.05  # of clean verification images, not of released ones
    if method == "masked":
        assert metrics["privacy/mask_ratio"] == pytest.approx(1 - oval().mean().item(), abs=1e-6)
    assert "hides nothing" not in caplog.text
    assert "contaminated" not in caplog.text
    run_main("validate", "--config", config, "--ckpt_path", "last")
    again = json.loads(Path("runs/tiny/metrics.json").read_text())
    assert again["lfw/accuracy"] == pytest.approx(metrics["lfw/accuracy"], abs=1e-6)


def test_a_release_without_verification_images_still_trains(
    made: Path, drawn_root: Path, tmp_path: Path, run_main: RunMain
) -> None:
    config = released_config(tmp_path / "tiny.yaml", drawn_root, made / "masked", "ResNetFSM")
    text = yaml.safe_load(config.read_text())
    text["trainer"]["callbacks"] = text["trainer"]["callbacks"][1:]
    config.write_text(yaml.safe_dump(text))
    run_main("fit", "--config", config)
    metrics = json.loads(Path("runs/tiny/metrics.json").read_text())
    assert "privacy/dssim" not in metrics
    assert "val/accuracy" in metrics


def test_fit_refuses_a_release_that_was_changed(
    spoilt: Path, drawn_root: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = released_config(tmp_path / "tiny.yaml", drawn_root, spoilt, "ResNetFSM")
    change_a_byte(spoilt)
    message = refused(capsys, lambda: run_main("fit", "--config", config))
    assert "is not what its manifest says" in message
    assert "see `python main.py audit" in message
    assert not (tmp_path / "runs" / "tiny" / "checkpoints").exists()
