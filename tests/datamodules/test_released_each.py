"""What the outsourced trainer does with a release whose images have a mask each, and with one that names classes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from datamodules import ClassFolders, DrawnFaces, FaceDataModule, ReleasedFaces
from datamodules.augment import Augment
from datamodules.drawing.pairs import DrawnPairs
from datamodules.evaluation_sets import with_classes
from datamodules.readers.bad_images import BadImage
from datamodules.readers.base import FaceReader
from datamodules.readers.cached import CachedReader
from datamodules.readers.subset import Subset
from datamodules.verification.released_pairs import ReleasedPairs
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.key_file import write_secret
from lightning_app.core.png import encode_png
from lightning_app.desensitize import GaussianBlur, LearnedMask
from lightning_app.inference.recogniser import load_recogniser
from lightning_app.release import Manifest, Pseudonyms
from lightning_app.release.audit.agreed import Agreed
from lightning_app.release.audit.run import audit
from lightning_app.release.audit.verdict import left_open
from lightning_app.release.format.own_masks import OwnMasks
from lightning_app.release.write.writer import write_release
from lightning_app.studies.audit import audit as audit_command
from tests.command_line import RunMain, refused
from tests.datamodules.task_files import drawn_classes
from tests.masker import write_masker
from tests.release.by_hand import as_written, relist, said, set_times
from tests.release.each import pairs_of_files, pixels
from tests.release.released import KEY

SIZE = 32
KINDS = ("core_first", "codebook")
PAIRS = {"identities": 4, "images_per_identity": 5, "folds": 2, "pairs_per_fold": 10, "size": SIZE}


def faces() -> DrawnFaces:
    return DrawnFaces(4, 5, SIZE)


def learned(home: Path, kind: str) -> LearnedMask:
    return LearnedMask(home / f"{kind}.ckpt", 0.24, kind)  # type: ignore[arg-type]


def released(home: Path, reader: FaceReader, name: str, desensitizer: Any) -> Manifest:
    return write_release(
        reader, desensitizer, home / name, home / f"{name} of the owner", KEY, workers=0, batch_size=5
    ).manifest


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("trainer")
    for kind in KINDS:
        write_masker(home / f"{kind}.ckpt", size=SIZE, rounds=2 * (kind == "core_first"))
        released(home, faces(), kind, learned(home, kind))
        released(home, DrawnPairs(**PAIRS), f"{kind} pairs", learned(home, kind))
    return home


def trained_on(data: FaceDataModule, at: list[int]) -> Batch:
    """What training makes of a batch: images in [0,1], augmented, with each image's mask."""
    assert data.training is not None
    draw_key = DrawKey(3, 1, 5)
    served = data._own
    assert served is not None
    found: Batch = data.augment(data._desensitized_once(served.reader.__getitems__(at), draw_key), draw_key)
    return found


@pytest.mark.parametrize("cache", [False, True, "device"])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_equal_those_made_on_the_fly(kind: str, cache: Any, home: Path) -> None:
    ours = FaceDataModule(
        ReleasedFaces(home / kind), global_batch_size=4, cache=cache, augment=Augment(crop=2)
    )
    fly = FaceDataModule(faces(), learned(home, kind), global_batch_size=4, augment=Augment(crop=2))
    for data in (ours, fly):
        data.setup("fit")
    raw, names = faces(), Pseudonyms(KEY)
    number = {}
    for index in range(len(raw)):
        person = raw.identities[int(raw.labels[index])]
        number[f"{names.identity(person)}/{names.image(person, raw.stable_name(index))}.png"] = index
    at = [0, 7, 13, 19]
    theirs = [number[ours.reader.stable_name(index)] for index in at]
    found = trained_on(ours, at)
    # the draws of an augmentation are the image's number's: give both the same
    ready = fly._desensitized_once(faces().__getitems__(theirs), DrawKey(3, 1, 5))
    wanted = fly.augment({**ready, "index": found["index"]}, DrawKey(3, 1, 5))
    assert torch.equal(found["image"], wanted["image"])
    masks = [one["mask"][one["mask_index"]] for one in (found, wanted)]  # type: ignore[index]
    assert torch.equal(*masks)
    before = ours._desensitized_once(ours._own.reader.__getitems__(at))["mask"]  # type: ignore[union-attr]
    assert before is not None
    assert ready["mask"] is not None
    assert len(before) == len(ready["mask"])  # a codebook is handed on whole, as on the fly


def test_masks_follow_an_image_that_stands_in_for_a_bad_one(home: Path) -> None:
    reader = ReleasedFaces(home / "core_first", verify="list")
    reader.on_bad_image = "replace"
    read = reader.read

    def bad(index: int) -> Any:
        if index == 1:
            from datamodules.readers.bad_images import BadImage

            raise BadImage("no image")
        return read(index)

    reader.read = bad  # type: ignore[method-assign]
    part = Subset(reader, torch.tensor([1, 4, 3]))
    for source, at, other in ((reader, 1, 2), (CachedReader(reader, 1), 1, 2), (part, 0, 1)):
        found = source.__getitems__([at])
        assert torch.equal(found["mask_bits"], source.__getitems__([other])["mask_bits"])
        assert torch.equal(found["image"], source.__getitems__([other])["image"])


def test_it_says_how_its_masks_came_about(home: Path) -> None:
    data = FaceDataModule(ReleasedFaces(home / "core_first"))
    assert isinstance(data.desensitizer, OwnMasks)
    description = Manifest.read(home / "core_first").method
    assert data.desensitizer.describe() == description == {**learned_about(home), "kind": "core_first"}
    with pytest.raises(ValueError, match=r"whose masker is not here: raw images get no mask.*ReleasedPairs"):
        data.desensitized(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8))
    with pytest.raises(ValueError, match="the released set was desensitized by LearnedMask"):
        ReleasedFaces(home / "core_first", own_desensitizer=learned(home, "codebook")).desensitizer()
    with pytest.raises(
        ValueError, match=r"its masks hide 0\.7607 of the pixels, less than .*min_mask_ratio=0\.8"
    ):
        ReleasedFaces(home / "core_first", min_mask_ratio=0.8)
    with pytest.raises(ValueError, match=r"has no mask, and data\.reader\.init_args\.mask_hash asks for one"):
        ReleasedFaces(home / "core_first", mask_hash="0" * 64)


def test_a_mask_that_shows_more_than_the_manifest_says_is_not_trained_under(
    home: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(home / "core_first", tmp_path / "out"))
    shown = Manifest.read(root).masks.shown  # type: ignore[union-attr]
    _, mask = pairs_of_files(root)[0]
    own = pixels(mask)[..., 0]
    for put, what in ((own | 255, f"shows {SIZE * SIZE} pixels"), (own & 254, f"shows {shown} pixels")):
        mask.write_bytes(encode_png(np.ascontiguousarray(put)))
        relist(root)
        reader = ReleasedFaces(root, min_mask_ratio=0.7)
        with pytest.raises(ValueError, match=f"{what}, or some in part; the manifest says {shown}"):
            reader.masks(range(len(reader)))


@pytest.mark.skipif(os.name != "posix", reason="sparse files are POSIX's")
def test_no_more_is_read_of_a_mask_or_a_list_than_such_a_one_has(home: Path, tmp_path: Path) -> None:
    """A sparse file takes no room on a disk, and more than any memory once it is read."""
    words = r": is larger than \d+ bytes, which no such file of ours is"

    def sparse(name: str, which: str) -> Path:
        root = Path(shutil.copytree(home / name, tmp_path / name))
        (first, *_) = sorted(root.glob(which))
        os.truncate(first, 10**12)
        return root

    reader = ReleasedFaces(sparse("core_first", "masks/*/*.png"), verify="list").open()
    with pytest.raises(BadImage, match=words):
        reader.masks(range(len(reader)))
    coded = ReleasedFaces(sparse("codebook", "codebook/*.png"), verify="list")
    with pytest.raises(ValueError, match=words):
        coded.open()
    pairs = ReleasedPairs(sparse("codebook pairs", "pairs.txt"), verify="list").open()
    with pytest.raises(ValueError, match=words):
        _ = pairs.pairs


def learned_about(home: Path) -> dict[str, object]:
    made = learned(home, "core_first")
    made.prepare((SIZE, SIZE))
    return made.describe()


def config(path: Path, reader: dict[str, Any], verify: dict[str, Any], **data: Any) -> Path:
    callbacks = [{"class_path": "callbacks.LFWVerification", "init_args": {"reader": verify, "bootstrap": 0}}]
    model = {"class_path": "lightning_app.models.ResNetFSM",
             "init_args": {"backbone": "resnet18", "width": 8, "insertion_points": ["layer1"]}}  # fmt: skip
    path.write_text(yaml.safe_dump({
        "seed_everything": 0,
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_progress_bar": False,
                    "callbacks": callbacks},
        "model": model,
        "data": {"class_path": "datamodules.FaceDataModule",
                 "init_args": {"reader": reader, "global_batch_size": 10, **data}},
    }))  # fmt: skip
    return path


def of(root: Path, kind: str = "ReleasedFaces", **more: Any) -> dict[str, Any]:
    return {"class_path": f"datamodules.{kind}", "init_args": {"root": str(root), **more}}


@pytest.mark.parametrize("kind", KINDS)
def test_an_fsm_from_the_release_alone(kind: str, home: Path, tmp_path: Path, run_main: RunMain) -> None:
    """The trainer fits and verifies without the masker; the owner verifies the checkpoint on raw images with it."""
    pairs = of(home / f"{kind} pairs", "ReleasedPairs")
    run_main("fit", "--config", config(tmp_path / "tiny.yaml", of(home / kind), pairs))
    metrics = json.loads(Path("runs/tiny/metrics.json").read_text())
    assert "lfw/accuracy_s1" in metrics
    assert "lfw/accuracy_s3" not in metrics
    drawn = {"class_path": "datamodules.DrawnPairs", "init_args": PAIRS}
    masker = {"class_path": "lightning_app.desensitize.LearnedMask",
              "init_args": {"checkpoint": str(home / f"{kind}.ckpt"), "kind": kind, "share": 0.24}}  # fmt: skip
    raw = {"class_path": "datamodules.DrawnFaces",
           "init_args": {"identities": 4, "images_per_identity": 5, "size": SIZE}}  # fmt: skip
    owners = config(tmp_path / "owner.yaml", raw, drawn, desensitizer=masker)
    checkpoint = "runs/tiny/checkpoints/last.ckpt"
    with pytest.raises(
        ValueError, match="its gates take the mask of each image, which images alone do not bring"
    ):
        load_recogniser("runs/tiny", desensitize=False)
    with pytest.raises(
        ValueError, match="release under a mask for each image, which its owner's masker makes"
    ):
        load_recogniser("runs/tiny")
    run_main("validate", "--config", owners, "--name", "owner", "--ckpt_path", checkpoint)
    again = json.loads(Path("runs/owner/metrics.json").read_text())
    assert again["lfw/accuracy_s1"] == pytest.approx(metrics["lfw/accuracy_s1"], abs=1e-9)


def test_raw_pairs_need_the_masker(
    home: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = {"class_path": "datamodules.DrawnPairs", "init_args": PAIRS}
    made = config(tmp_path / "tiny.yaml", of(home / "core_first"), drawn)
    line = refused(capsys, lambda: run_main("fit", "--config", made))
    assert "was made by LearnedMask of kind core_first, whose masker is not here" in line
    pairs = of(home / "codebook pairs", "ReleasedPairs")
    other = config(tmp_path / "other.yaml", of(home / "core_first"), pairs)
    assert "its images were released by LearnedMask" in refused(
        capsys, lambda: run_main("fit", "--config", other)
    )


def test_pairs_are_audited(home: Path, tmp_path: Path) -> None:
    root = home / "core_first pairs"
    assert Manifest.read(root).pairs == 40
    assert not audit(root).findings
    text = (root / "pairs.txt").read_bytes()
    try:
        lines = text.splitlines(keepends=True)
        flipped = (
            lines[0].replace(b" 1 0\n", b" 0 0\n")
            if b" 1 0\n" in lines[0]
            else lines[0].replace(b" 0 0\n", b" 1 0\n")
        )
        (root / "pairs.txt").write_bytes(b"".join(sorted([flipped, *lines[1:]])))
        set_times(root)
        found = str(said(audit(root)))
    finally:
        (root / "pairs.txt").write_bytes(text)
        set_times(root)
    assert (
        "says of a pair whether it is one person otherwise than its folders do" in found
        or "is not in its place" in found
    )


def test_pairs_that_nothing_was_compared_with_are_not_proven(home: Path, tmp_path: Path) -> None:
    """Which pairs are listed, and how often, is a message; without the raw set's list nobody knows."""
    root = home / "core_first pairs"
    open_ = "that the list of 40 pairs carries nothing else (--config, --key)"
    found = audit(root)
    assert open_ in left_open(found, Agreed(), False)
    write_secret(tmp_path / "key", KEY.hex().encode() + b"\n")
    drawn = {"class_path": "datamodules.DrawnPairs", "init_args": PAIRS}
    masker = {"class_path": "lightning_app.desensitize.LearnedMask",
              "init_args": {"checkpoint": f"{home}/core_first.ckpt", "kind": "core_first", "share": 0.24}}  # fmt: skip
    (tmp_path / "made.yaml").write_text(yaml.safe_dump({"reader": drawn, "desensitizer": masker}))
    found = audit_command(str(root), key=str(tmp_path / "key"), config=str(tmp_path / "made.yaml"))
    assert not found.findings
    assert open_ not in found.unproven


# -- classes


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("task")
    drawn_classes(home / "raw", {"train": 4, "validation": 2}, ("surprise", "happy", "neutral"), SIZE)
    for split in ("train", "validation"):
        reader = ClassFolders(home / "raw", split, size=SIZE, cache_index=False)
        released(home, reader, split, GaussianBlur(9))
    write_secret(home / "key", KEY.hex().encode() + b"\n")
    (home / "made.yaml").write_text(yaml.safe_dump({
        "reader": {"class_path": "datamodules.ClassFolders",
                   "init_args": {"root": str(home / "raw"), "split": "train", "size": SIZE, "cache_index": False}},
        "desensitizer": {"class_path": "lightning_app.desensitize.GaussianBlur", "init_args": {"kernel": 9}},
    }))  # fmt: skip
    return home


def test_a_release_keeps_the_names_of_classes(task: Path) -> None:
    manifest = Manifest.read(task / "train")
    assert manifest.version == 4
    assert sorted((manifest.classes or {}).values()) == ["happy", "neutral", "surprise"]
    reader = ReleasedFaces(task / "train").open()
    assert reader.identities == ["happy", "neutral", "surprise"]
    assert not reader.classes_are_people
    raw, names = ClassFolders(task / "raw", "train", size=SIZE, cache_index=False), Pseudonyms(KEY)
    for index in range(len(raw)):
        called = raw.identities[int(raw.labels[index])]
        name = f"{names.identity(called)}/{names.image(called, raw.stable_name(index))}.png"
        at = list(reader.stable_names()).index(name)
        assert reader.identities[int(reader.labels[at])] == called
        assert Path(reader.name(at)).is_file()
    batch = reader.__getitems__([0, 5])
    assert batch["target"].tolist() == reader.labels[[0, 5]].tolist()
    assert batch["identity"].tolist() == [-1, -1]


def test_splits_of_a_task_go_together(task: Path) -> None:
    data = FaceDataModule(ReleasedFaces(task / "train"), validation=ReleasedFaces(task / "validation"))
    data.setup("fit")
    assert data.class_names == ["happy", "neutral", "surprise"]
    assert data.held_out is not None
    other = with_classes(
        ReleasedFaces(task / "validation"), ["surprise", "happy", "neutral"], "data.validation"
    )
    assert all(Path(other.name(index)).is_file() for index in range(len(other)))
    assert other.labels.tolist() == [[1, 2, 0][k] for k in ReleasedFaces(task / "validation").labels.tolist()]


def test_classes_are_audited(task: Path, tmp_path: Path) -> None:
    assert not audit(task / "train").findings
    manifest = json.loads((task / "train/manifest.json").read_text())
    first, second, _ = sorted(manifest["classes"])

    def found(change: dict[str, str], raw: bool = False) -> str:
        kept = (task / "train/manifest.json").read_bytes()
        (task / "train/manifest.json").write_text(
            as_written(manifest | {"classes": manifest["classes"] | change})
        )
        set_times(task / "train")
        try:
            if not raw:
                return str(said(audit(task / "train")))
            audit_command(
                str(task / "train"), config=str(task / "made.yaml"), key=str(task / "key"),
                json_path=str(tmp_path / "audit.json"),
            )  # fmt: skip
            return (tmp_path / "audit.json").read_text()
        finally:
            (task / "train/manifest.json").write_bytes(kept)
            set_times(task / "train")

    assert '"passed": true' in found({}, raw=True)
    assert "has a name that is none (small letters, digits, _)" in found({first: "Ann Smith"})
    assert "has a name twice" in found({first: manifest["classes"][second]})
    assert "has a key that is no pseudonym" in found({"ann": "ann"})
    assert "another number of classes" in found({"0" * 20: "fear"})
    swapped = {first: manifest["classes"][second], second: manifest["classes"][first]}
    assert found(swapped) == "{}"
    assert "its classes are called otherwise than those of the raw set" in found(swapped, raw=True)
    assert "that the names of 1 classes are no people" not in found({}, raw=True)


def test_people_have_no_names_and_odd_classes_none(
    task: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert released(tmp_path, faces(), "people", GaussianBlur(9)).classes is None
    drawn_classes(tmp_path / "raw", {"train": 2}, ("Ägypten", "b"), SIZE)
    reader = ClassFolders(tmp_path / "raw", "train", size=SIZE, cache_index=False)
    assert released(tmp_path, reader, "odd", GaussianBlur(9)).classes is None
    assert "The names of the 2 classes do not fit a manifest" in caplog.text
