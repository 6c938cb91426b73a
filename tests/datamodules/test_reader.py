from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import datamodules.readers.cached as module
from datamodules import DrawnFaces, FaceDataModule
from datamodules.readers.bad_images import BadImage, BadImages
from datamodules.readers.base import FaceReader, OnBadImage, Pixels, whole
from datamodules.readers.cached import CachedReader
from datamodules.readers.subset import Subset
from lightning_app.core.batch import Batch
from lightning_app.federated.protocol.people import OwnPeople


class Counted(FaceReader):
    """Image i is filled with i; image 17 has three channels; some cannot be decoded."""

    def __init__(
        self, bad: tuple[int, ...] = (3, 4), colour: int | None = 17, on_bad: OnBadImage = "replace"
    ):
        self.size, self.identities, self.labels = 4, ["ann", "bob", "cyd", "dan"], torch.arange(20) // 5
        self.bad, self.colour, self.on_bad_image = bad, colour, on_bad

    def read(self, index: int) -> Pixels:
        if index in self.bad:
            raise BadImage(f"{self.name(index)}: broken")
        if index == self.colour:
            return np.full((3, 4, 4), index, np.uint8) + np.arange(3, dtype=np.uint8)[:, None, None]
        return np.full((1, 4, 4), index, np.uint8)

    def name(self, index: int) -> str:
        return f"face{index}"


def _colours(batch: Batch) -> list[list[int]]:
    image = batch["image"]
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert bool((image == image[:, :, :1, :1]).all())
    return [[int(value) for value in row] for row in image[:, :, 0, 0]]


def test_batch_of_grey_and_colour() -> None:
    batch = Counted().__getitems__([0, 17, 9])
    assert _colours(batch) == [[0, 0, 0], [17, 18, 19], [9, 9, 9]]
    assert batch["identity"].tolist() == [0, 3, 1]
    assert batch["index"].tolist() == [0, 17, 9]
    assert batch["bad"].tolist() == []
    assert {batch[key].dtype for key in ("identity", "index", "bad")} == {torch.int64}


def test_bad_images_give_way_to_the_next_of_their_identity() -> None:
    batch = Counted(bad=(3, 4, 6)).__getitems__([3, 4, 6, 1])
    # after 3 comes 4, which is bad, then around to 0; after 6 comes 7
    assert _colours(batch) == [[0] * 3, [0] * 3, [7] * 3, [1] * 3]
    assert batch["identity"].tolist() == [0, 0, 1, 0]
    assert batch["index"].tolist() == [3, 4, 6, 1]
    assert batch["bad"].tolist() == [3, 4, 6]


def test_on_bad_image_error() -> None:
    reader = Counted(on_bad="error")
    with pytest.raises(BadImage, match=r"^face3: broken$"):
        reader.__getitems__([0, 3])
    with pytest.raises(BadImage, match=r"^face3: broken$"):
        Subset(reader, torch.tensor([3, 0])).__getitems__([0])


def test_identity_without_good_images() -> None:
    with pytest.raises(BadImage, match=r"no image of identity 'bob' can be decoded, .*: face6: broken"):
        Counted(bad=(5, 6, 7, 8, 9)).__getitems__([6])


def test_single_item_is_a_batch_of_one() -> None:
    assert _colours(Counted()[2]) == [[2, 2, 2]]


def test_subset_keeps_numbers_and_classes() -> None:
    part = Subset(Counted(bad=()), torch.tensor([12, 3, 8]))
    assert len(part) == 3
    assert part.labels.tolist() == [2, 0, 1]
    assert part.identities == ["ann", "bob", "cyd", "dan"]
    batch = part.__getitems__([2, 0])
    assert batch["index"].tolist() == [8, 12]
    assert batch["identity"].tolist() == [1, 2]
    assert _colours(batch) == [[8] * 3, [12] * 3]
    assert part.name(0) == "face12"
    assert part.number(0) == 12
    nested = Subset(part, torch.tensor([1]))
    assert nested[0]["index"].tolist() == [3]


@pytest.mark.parametrize("cached", [False, True])
def test_subset_replaces_from_within(cached: bool) -> None:
    whole: FaceReader = Counted(bad=(3, 7))
    part = Subset(CachedReader(whole, threads=2) if cached else whole, torch.tensor([1, 3, 7, 12]))
    batch = part.__getitems__([0, 1, 2, 3])
    # 3 gives way to 1, not to 4; 7 has nobody of bob's in the part: the next of the part, as that person
    assert _colours(batch) == [[1] * 3, [1] * 3, [12] * 3, [12] * 3]
    assert batch["identity"].tolist() == [0, 0, 2, 2]
    assert batch["index"].tolist() == [1, 3, 7, 12]
    assert batch["bad"].tolist() == [3, 7]


def test_subset_refuses_a_wholly_bad_identity() -> None:
    part = Subset(Counted(bad=(5, 6, 7, 8, 9)), torch.tensor([0, 6]))
    with pytest.raises(BadImage, match="no image of identity 'bob'"):
        part.__getitems__([1])


@pytest.mark.parametrize("colour", [None, 0, 17, 19])
def test_cache_equals_reader(colour: int | None) -> None:
    reader = Counted(colour=colour)
    cached = CachedReader(reader, threads=2)
    assert cached.pixels.shape == (20, 1 if colour is None else 3, 4, 4)
    assert cached.pixels.untyped_storage().is_shared()
    order = torch.randperm(20).tolist()
    mine, theirs = cached.__getitems__(order), reader.__getitems__(order)
    for key in ("image", "identity", "index", "bad"):
        assert torch.equal(mine[key], theirs[key])


def test_cache_grows_to_colour_across_chunks() -> None:
    reader = Counted(colour=17)
    pixels, bad, given, *_ = module._fill(reader, threads=2, chunk=3)
    expected = reader.__getitems__(range(20))
    assert torch.equal(pixels, expected["image"])
    assert bad.tolist() == [3, 4]
    assert torch.equal(given, expected["identity"])


def test_cache_reads_each_image_once() -> None:
    reads: list[int] = []

    class Noted(Counted):
        def read(self, index: int) -> Pixels:
            reads.append(index)
            return super().read(index)

    cached = CachedReader(Noted(bad=()), threads=3)
    for _ in range(2):
        cached.__getitems__(range(20))
    assert sorted(reads) == list(range(20))


def test_cache_of_a_subset() -> None:
    part = Subset(Counted(colour=None), torch.tensor([12, 3, 1]))
    batch = CachedReader(part, threads=1).__getitems__([1, 0])
    assert batch["index"].tolist() == [3, 12]
    assert batch["bad"].tolist() == [3]
    assert _colours(batch) == [[1] * 3, [12] * 3]


def test_cache_refuses_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: 319)
    with pytest.raises(ValueError, match=r"cache: 20 images of 1×4×4 take 0\.0 GiB, 0\.0 GiB are available"):
        CachedReader(Counted())


def test_available_memory_is_sensible() -> None:
    assert 2**20 < module.available_memory() < 2**45


@pytest.mark.parametrize("cached", [False, True])
def test_workers_give_the_same_batches(cached: bool) -> None:
    reader: FaceReader = Counted()
    source = CachedReader(reader, threads=2) if cached else reader
    loader: DataLoader[Batch] = DataLoader(
        source, batch_size=6, num_workers=2, collate_fn=whole, multiprocessing_context="fork"
    )
    found = list(loader)
    assert len(found) == 4
    for start, batch in zip(range(0, 20, 6), found, strict=True):
        expected = reader.__getitems__(range(start, min(start + 6, 20)))
        for key in ("image", "identity", "index", "bad"):
            assert torch.equal(batch[key], expected[key])


def test_bad_images_are_counted_once() -> None:
    bad = BadImages(300)
    assert bad.warning(str) is None
    bad.check()
    bad.add(torch.tensor([7, 2]))
    bad.add([7, 5])
    bad.check(str)  # exactly one per cent
    assert bad.warning(lambda i: f"f{i}") == (
        "3 of 300 images cannot be decoded and were replaced (f2, f5, f7)"
    )
    bad.add([9])
    with pytest.raises(
        ValueError, match=r"^4 of 300 images cannot be decoded, more than 1% \(f2, f5, f7, …\)"
    ):
        bad.check(lambda i: f"f{i}")


def test_whose_faces_they_are_is_never_inherited() -> None:
    class Mine(DrawnFaces):
        def read(self, index: int) -> Pixels:
            return np.zeros((1, self.size, self.size), np.uint8)  # of a file, say

    class Stated(DrawnFaces):
        of_nobody = True

    assert FaceDataModule(DrawnFaces(2, 1, size=16)).drawn
    assert not FaceDataModule(Mine(2, 1, size=16)).drawn
    assert FaceDataModule(Stated(2, 1, size=16)).drawn
    assert not Counted().of_nobody


class Kept(Counted):
    """A reader of somebody else's, which calls its folder as it likes."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.crop = folder, 3


def test_what_wraps_a_reader_says_where_it_is_read_from_and_what_is_cut_out(tmp_path: Path) -> None:
    raw = Kept(tmp_path / "faces")
    assert raw.places() == [tmp_path / "faces"]
    for wrapped in (Subset(raw, torch.arange(3)), CachedReader(raw), OwnPeople(raw, torch.arange(3))):
        assert wrapped.places() == raw.places(), type(wrapped).__name__
        assert wrapped.crop == 3
        assert wrapped.pixel_facts()["crop"] == 3
