"""Every reader of ours keeps the contract, and so does a toy that trains and verifies by `class_path`."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from datamodules import (
    BinFaces,
    DrawnFaces,
    DrawnPairs,
    FolderFaces,
    PairFaces,
    RecordIOFaces,
    ReleasedFaces,
    ReleasedPairs,
)
from datamodules.readers.base import FaceReader, Pixels
from datamodules.readers.cached import CachedReader
from datamodules.readers.subset import Subset
from lightning_app.federated.protocol.people import OwnPeople
from tests.command_line import RunMain
from tests.datamodules.face_files import encoded, insightface_records, make_tree, picture, write_records
from tests.datamodules.reader_contract import ReaderContract
from tests.release import tensor_release
from tests.release.released import raw_tree, release

SIZE = 20


class OnDisk(ReaderContract):
    """A contract whose set is written into a folder of the test's own."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.write()

    def write(self) -> None:
        """Write the set into `folder`."""


class TestDrawnFaces(ReaderContract):
    def make(self) -> DrawnFaces:
        return DrawnFaces(3, 2, SIZE)


class TestDrawnPairs(ReaderContract):
    def make(self) -> DrawnPairs:
        return DrawnPairs(6, 3, SIZE, folds=2, pairs_per_fold=4)


class TestFolderFaces(OnDisk):
    def write(self) -> None:
        make_tree(self.folder / "faces", {"ann": 3, "bob": 2})

    def make(self) -> FolderFaces:
        return FolderFaces(self.folder / "faces", size=SIZE, cache_index=False)


class TestRecordIOFaces(OnDisk):
    def write(self) -> None:
        images = [(label, encoded(picture(i), "PNG")) for i, label in enumerate([0, 0, 1, 2, 2])]
        write_records(self.folder / "train.rec", insightface_records(images))

    def make(self) -> RecordIOFaces:
        return RecordIOFaces(self.folder, size=SIZE, cache_index=False)


class TestReleasedFaces(OnDisk):
    def write(self) -> None:
        release(self.folder, raw_tree(self.folder / "raw", people=2, each=2))

    def make(self) -> ReleasedFaces:
        return ReleasedFaces(self.folder / "out")


class TestReleasedPairs(OnDisk):
    """Of a representation: its pixels are what was stored."""

    def write(self) -> None:
        pairs = DrawnPairs(4, 3, folds=2, pairs_per_fold=4, size=32)
        tensor_release.released(self.folder, pairs, "out", tensor_release.method(self.folder))

    def make(self) -> ReleasedPairs:
        return ReleasedPairs(self.folder / "out")


class TestCachedReader(ReaderContract):
    def make(self) -> CachedReader:
        return CachedReader(DrawnFaces(3, 2, SIZE), threads=1)


class TestSubset(ReaderContract):
    """Of three people's images, those of two."""

    of_a_whole = True

    def make(self) -> Subset:
        return Subset(DrawnFaces(3, 2, SIZE), torch.tensor([5, 1, 0]))


class TestOwnPeople(ReaderContract):
    """The same images, but their people are all there are."""

    def make(self) -> OwnPeople:
        return OwnPeople(DrawnFaces(3, 2, SIZE), torch.tensor([5, 1, 0]))


class TestPairFaces(OnDisk):
    def write(self) -> None:
        DrawnFaces(6, 4, SIZE).write(self.folder / "faces", count_per_class=4, folds=2)

    def make(self) -> PairFaces:
        return PairFaces(self.folder / "faces", size=SIZE)


class TestBinFaces(OnDisk):
    def write(self) -> None:
        images = [encoded(picture(i), "PNG") for i in range(80)]
        same = [i % 2 == 0 for i in range(40)]
        (self.folder / "lfw.bin").write_bytes(pickle.dumps((images, same)))

    def make(self) -> BinFaces:
        return BinFaces(self.folder / "lfw.bin", size=SIZE)


TOY = '''
import numpy as np
import torch
from datamodules.readers.base import FaceReader

class ArrayFaces(FaceReader):
    """Somebody else's: one .npy file of uint8 [people, images, size, size]."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.faces = np.load(path)
        self.size = self.faces.shape[-1]

    def scan(self) -> None:
        people, images = self.faces.shape[:2]
        self.identities = [f"person {i}" for i in range(people)]
        self.labels = torch.arange(people).repeat_interleave(images)

    def read(self, index):
        return self.faces.reshape(-1, 1, self.size, self.size)[index]

    def name(self, index):
        return f"{self.path}, image {index}"

    def stable_name(self, index):
        return f"image {index}"
'''


def toy(folder: Path, size: int = 32) -> Path:
    """A module of somebody else's, and its set."""
    (folder / "toy_reader.py").write_text(TOY)
    faces = DrawnFaces(4, 6, size).__getitems__(range(24))["image"][:, :1].numpy()
    np.save(folder / "faces.npy", faces.reshape(4, 6, size, size))
    return folder / "faces.npy"


class TestToy(OnDisk):
    @pytest.fixture(autouse=True)
    def _importable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(tmp_path))

    def write(self) -> None:
        toy(self.folder)

    def make(self) -> FaceReader:
        from toy_reader import ArrayFaces  # type: ignore[import-not-found]

        made: FaceReader = ArrayFaces(str(self.folder / "faces.npy"))
        return made


def test_a_reader_of_ones_own_by_class_path(
    run_main: RunMain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toy(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    watch = {
        "class_path": "callbacks.LFWVerification",
        "init_args": {"bootstrap": 0, "reader": {"class_path": "datamodules.DrawnPairs", "init_args": {
            "identities": 6, "images_per_identity": 4, "size": 32, "folds": 2, "pairs_per_fold": 4}}},
    }  # fmt: skip
    config: dict[str, Any] = {
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "callbacks": [watch]},
        "model": {"class_path": "lightning_app.models.ResNet", "init_args": {"backbone": "resnet18", "width": 8}},
        "data": {"class_path": "datamodules.FaceDataModule", "init_args": {
            "global_batch_size": 8,
            "reader": {"class_path": "toy_reader.ArrayFaces", "init_args": {"path": str(path)}}}},
    }  # fmt: skip
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(config))
    run_main("fit", "--config", "toy.yaml")
    found = json.loads(Path("runs/toy/metrics.json").read_text())
    assert 0 <= found["lfw/accuracy"] <= 1
    blurred = ("--desensitizer", "lightning_app.desensitize.Mosaic", "--desensitizer.init_args.block", 4)
    given = ("--reader", "toy_reader.ArrayFaces", "--reader.init_args.path", path, *blurred)
    run_main("desensitize", *given, "--output", "released", "--name", "theirs")
    own = Path("runs/theirs")
    check = ("audit", "released", "--config", own / "config.yaml", "--key", own / "pseudonyms.key")
    run_main(*check, "--json", "a.json")
    verdict = json.loads(Path("a.json").read_text())
    assert verdict["passed"]
    assert verdict["findings"] == []
    next(Path("released/images").glob("*/*.png")).write_bytes(b"")
    with pytest.raises(SystemExit):
        run_main(*check)


def test_an_image_of_a_reader_is_what_it_reads() -> None:
    """The contract itself can fail."""

    class Unsteady(DrawnFaces):
        def read(self, index: int) -> Pixels:
            return np.random.default_rng().integers(0, 255, (3, self.size, self.size)).astype(np.uint8)

    class Contract(ReaderContract):
        def make(self) -> FaceReader:
            return Unsteady(2, 2, SIZE)

    contract = Contract()
    with pytest.raises(AssertionError):
        contract.test_images_are_functions_of_their_number(contract.make())
