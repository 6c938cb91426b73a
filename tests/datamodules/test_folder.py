from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from datamodules.readers.base import whole
from datamodules.readers.decode import Crop
from datamodules.readers.folder import FolderFaces, TreeScan
from datamodules.readers.index import Names
from lightning_app.core.batch import Batch
from tests.datamodules.face_files import encoded, make_tree, picture


def _files(reader: FolderFaces) -> list[str]:
    return [Path(reader.name(i)).relative_to(reader.root).as_posix() for i in range(len(reader))]


def _age(root: Path) -> None:
    """Make folders look older than the clock's grain, as those of a real set are."""
    for folder in [root, *(path for path in root.iterdir() if path.is_dir())]:
        past = time.time_ns() - 3600 * 10**9 + os.stat(folder).st_mtime_ns % 10**9
        os.utime(folder, ns=(past, past))


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the folders listed since, in any order."""
    seen: list[str] = []
    plain = TreeScan._list

    def noted(self: TreeScan, folder: str) -> tuple[Names, Counter[str]]:
        seen.append(folder)
        return plain(self, folder)

    monkeypatch.setattr(TreeScan, "_list", noted)
    return seen


class TestPixels:
    """Equal to torchvision's ImageFolder with PIL, bit for bit."""

    CROPS: tuple[tuple[Crop, Callable[[Any], Any] | None], ...] = (
        (None, None),
        (41, v2.CenterCrop(41)),
        (30, v2.CenterCrop(30)),
        ((3, 5, 50, 45), lambda image: image.crop((3, 5, 50, 45))),
    )

    @pytest.mark.parametrize("crop", CROPS, ids=["whole", "centre41", "centre30", "box"])
    @pytest.mark.parametrize("size", [30, 80])
    def test_equal_to_image_folder(self, tmp_path: Path, size: int, crop: tuple[Crop, Any]) -> None:
        files = {
            "grey.jpg": encoded(picture(0, "L"), "JPEG"),
            "colour.jpg": encoded(picture(1, "RGB"), "JPEG"),
            "progressive.jpeg": encoded(picture(2, "RGB"), "JPEG", progressive=True),
            "cmyk.jpg": encoded(picture(3, "CMYK"), "JPEG"),
            "grey.png": encoded(picture(4, "L"), "PNG"),
            "colour.png": encoded(picture(5, "RGB"), "PNG"),
            "alpha.png": encoded(picture(6, "RGBA"), "PNG"),
            "greyalpha.png": encoded(picture(7, "LA"), "PNG"),
            "palette.png": encoded(picture(8, "P"), "PNG"),
            "bits.png": encoded(picture(9, "1"), "PNG"),
            "lossy.webp": encoded(picture(10, "RGB"), "WEBP"),
            "lossless.webp": encoded(picture(11, "RGBA"), "WEBP", lossless=True),
        }
        for person in ("ann", "bob"):
            (tmp_path / "faces" / person).mkdir(parents=True)
            for name, data in files.items():
                (tmp_path / "faces" / person / name).write_bytes(data)
        mine = FolderFaces(tmp_path / "faces", crop=crop[0], size=size).open()
        steps = [v2.Resize((size, size), antialias=True), v2.PILToTensor()]
        theirs = ImageFolder(
            str(tmp_path / "faces"), transform=v2.Compose(steps if crop[1] is None else [crop[1], *steps])
        )
        assert [mine.name(i) for i in range(len(mine))] == [path for path, _ in theirs.samples]
        batch = mine.__getitems__(range(len(mine)))
        for i, (image, label) in enumerate(theirs):
            assert torch.equal(batch["image"][i], image), mine.name(i)
            assert int(batch["identity"][i]) == label

    @pytest.mark.data
    def test_equal_on_lfw(self) -> None:
        root = Path(os.environ.get("FACEVEIL_DATA", Path(__file__).parents[2] / "data")) / "lfw"
        if not root.is_dir():
            pytest.skip(f"{root} is absent")
        mine = FolderFaces(root, size=112).open()
        theirs = ImageFolder(str(root), v2.Compose([v2.Resize((112, 112)), v2.PILToTensor()]))
        assert [mine.name(i) for i in range(len(mine))] == [path for path, _ in theirs.samples]
        rows = list(range(0, len(mine), 300))
        assert torch.equal(mine.__getitems__(rows)["image"], torch.stack([theirs[i][0] for i in rows]))


class TestSelection:
    def test_natural_order_and_what_is_passed_over(self, tmp_path: Path) -> None:
        root = tmp_path / "faces"
        data = encoded(picture(0))
        for name in ("b10.jpg", "b2.jpg", "b02.jpg", "a.WEBP", ".hidden.jpg", "notes.txt"):
            (root / "zoe").mkdir(parents=True, exist_ok=True)
            (root / "zoe" / name).write_bytes(data)
        (root / "zoe" / "deeper.jpg").mkdir()
        make_tree(root, {"Ann Lee": 1, ".trash": 1, "émile": 1})
        (root / "empty").mkdir()
        (root / "readme.txt").write_text("x")
        reader = FolderFaces(root).open()
        assert reader.identities == ["Ann Lee", "zoe", "émile"]
        assert _files(reader) == [
            "Ann Lee/Ann Lee_0001.jpg", "zoe/a.WEBP", "zoe/b02.jpg", "zoe/b2.jpg", "zoe/b10.jpg",
            "émile/émile_0001.jpg",
        ]  # fmt: skip
        assert reader.labels.tolist() == [0, 1, 1, 1, 1, 2]

    def test_max_images_takes_the_first(self, tree: Path) -> None:
        reader = FolderFaces(tree, max_images=2).open()
        assert _files(reader) == [
            "ann/ann_0001.jpg", "ann/ann_0002.jpg", "bob/bob_0001.jpg", "cyd/cyd_0001.jpg",
            "cyd/cyd_0002.jpg",
        ]  # fmt: skip

    def test_min_images_leaves_out(self, tree: Path) -> None:
        reader = FolderFaces(tree, min_images=2, max_images=1).open()
        assert reader.identities == ["ann", "cyd"]
        assert _files(reader) == ["ann/ann_0001.jpg", "cyd/cyd_0001.jpg"]
        assert reader.labels.tolist() == [0, 1]

    @pytest.mark.parametrize("text", ["cyd\nbob\n", "2\ncyd\t4\nbob\t1\n", "\n cyd \n\nbob"])
    def test_people(self, tree: Path, tmp_path: Path, text: str) -> None:
        (tmp_path / "people.txt").write_text(text)
        reader = FolderFaces(tree, people=tmp_path / "people.txt").open()
        assert reader.identities == ["bob", "cyd"]
        assert _files(reader)[:2] == ["bob/bob_0001.jpg", "cyd/cyd_0001.jpg"]
        assert len(reader) == 5


class TestBadInput:
    def test_a_root_one_level_too_high(self, tmp_path: Path) -> None:
        for person in ("ann", "bob"):
            (tmp_path / "set/train" / person).mkdir(parents=True)
            (tmp_path / "set/train" / person / "1.JPG").write_bytes(b"never read")
        with pytest.raises(
            ValueError,
            match=r"none of its 1 folders has images .*; identities lie in train: give root=.*set/train$",
        ):
            FolderFaces(tmp_path / "set").open()

    def test_no_root(self, tmp_path: Path) -> None:
        with pytest.raises(
            FileNotFoundError, match=r"root=.*none: no such folder \(looked for one folder.*another `root`"
        ):
            FolderFaces(tmp_path / "none").open()

    def test_empty_root(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match=r"has no images \(looked for one folder per identity"):
            FolderFaces(tmp_path / "empty").open()

    def test_folders_without_images(self, tmp_path: Path) -> None:
        (tmp_path / "faces" / "ann").mkdir(parents=True)
        with pytest.raises(ValueError, match="none of its 1 folders has images"):
            FolderFaces(tmp_path / "faces").open()

    def test_images_without_folders(self, tree: Path) -> None:
        with pytest.raises(ValueError, match=r"has 3 images but no folders of identities .*: sort them"):
            FolderFaces(tree / "ann").open()

    def test_one_identity(self, tmp_path: Path) -> None:
        make_tree(tmp_path / "faces", {"ann": 2})
        with pytest.raises(ValueError, match=r"1 of 1 identities left .*at least two are needed"):
            FolderFaces(tmp_path / "faces").open()

    def test_min_images_filters_all(self, tree: Path) -> None:
        with pytest.raises(
            ValueError, match=r"0 of 3 identities left .*min_images=9 or more, the largest has 4\)"
        ):
            FolderFaces(tree, min_images=9).open()

    def test_people_file_missing(self, tree: Path) -> None:
        with pytest.raises(
            FileNotFoundError, match=r"people=nobody\.txt: no such file.*null takes everybody"
        ):
            FolderFaces(tree, people="nobody.txt").open()

    def test_people_not_there(self, tree: Path, tmp_path: Path) -> None:
        (tmp_path / "people.txt").write_text("ann\ndan\neve\nfay\ngus\n")
        with pytest.raises(
            ValueError, match=r"4 of 5 people have no images in .*, the first: dan, eve, fay$"
        ):
            FolderFaces(tree, people=tmp_path / "people.txt").open()

    def test_people_empty(self, tree: Path, tmp_path: Path) -> None:
        (tmp_path / "people.txt").write_text("\n")
        with pytest.raises(ValueError, match="the file is empty"):
            FolderFaces(tree, people=tmp_path / "people.txt").open()

    def test_counts(self, tree: Path) -> None:
        with pytest.raises(ValueError, match="min_images=0: give at least 1"):
            FolderFaces(tree, min_images=0).open()
        with pytest.raises(ValueError, match="max_images=0: give at least 1"):
            FolderFaces(tree, max_images=0).open()

    def test_broken_and_vanished_files(self, tree: Path) -> None:
        reader = FolderFaces(tree, size=20).open()
        (tree / "ann" / "ann_0001.jpg").write_bytes(b"broken")
        (tree / "cyd" / "cyd_0004.jpg").unlink()
        batch = reader.__getitems__(range(8))
        assert batch["bad"].tolist() == [0, 7]
        assert torch.equal(batch["image"][0], batch["image"][1])
        assert torch.equal(batch["image"][7], batch["image"][4])  # around to the first of cyd's
        strict = FolderFaces(tree, size=20, on_bad_image="error", cache_index=False).open()
        with pytest.raises(ValueError, match=r"ann_0001\.jpg: cannot be decoded"):
            strict.__getitems__([0])


class TestCache:
    def test_second_scan_lists_nothing(self, tree: Path, cache: Path, listed: list[str]) -> None:
        _age(tree)
        first = FolderFaces(tree).open()
        assert sorted(listed) == ["ann", "bob", "cyd"]
        assert [path.suffix for path in cache.glob("*.npz")] == [".npz"]
        listed.clear()
        assert _files(FolderFaces(tree).open()) == _files(first)
        assert listed == []

    def test_off(self, tree: Path, cache: Path) -> None:
        FolderFaces(tree, cache_index=False).open()
        assert not cache.exists()

    def test_only_changed_folders_are_listed(self, tree: Path, listed: list[str]) -> None:
        _age(tree)
        FolderFaces(tree).open()
        listed.clear()
        (tree / "bob" / "bob_0002.jpg").write_bytes(encoded(picture(50)))
        assert "bob/bob_0002.jpg" in _files(FolderFaces(tree).open())
        assert listed == ["bob"]

    def test_removed_and_added(self, tree: Path, listed: list[str]) -> None:
        _age(tree)
        FolderFaces(tree).open()
        listed.clear()
        (tree / "bob" / "bob_0001.jpg").unlink()
        (tree / "bob").rmdir()
        make_tree(tree, {"aaron": 1})
        (tree / "cyd" / "cyd_0002.jpg").unlink()
        reader = FolderFaces(tree).open()
        assert reader.identities == ["aaron", "ann", "cyd"]
        assert _files(reader)[-3:] == ["cyd/cyd_0001.jpg", "cyd/cyd_0003.jpg", "cyd/cyd_0004.jpg"]
        assert sorted(listed) == ["aaron", "cyd"]

    def test_touched(self, tree: Path, listed: list[str]) -> None:
        _age(tree)
        FolderFaces(tree).open()
        listed.clear()
        os.utime(tree / "ann", ns=(10**18, 10**18))
        FolderFaces(tree).open()
        assert listed == ["ann"]

    def test_fresh_folders_are_not_trusted(self, tree: Path, listed: list[str]) -> None:
        FolderFaces(tree).open()
        now = os.stat(tree / "ann").st_mtime_ns
        (tree / "ann" / "ann_0009.jpg").write_bytes(encoded(picture(51)))
        os.utime(tree / "ann", ns=(now, now))  # a change within one tick of the file system's clock
        assert "ann/ann_0009.jpg" in _files(FolderFaces(tree).open())

    def test_same_name_elsewhere(self, tree: Path, tmp_path: Path) -> None:
        FolderFaces(tree).open()
        other = make_tree(tmp_path / "other" / "faces", {"dan": 1, "eve": 1})
        assert FolderFaces(other).open().identities == ["dan", "eve"]

    @pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no zip", None])
    def test_corrupt(
        self, tree: Path, cache: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        _age(tree)
        expected = _files(FolderFaces(tree).open())
        (path,) = cache.glob("*.npz")
        path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
        with caplog.at_level(logging.WARNING):
            assert _files(FolderFaces(tree).open()) == expected
        assert "is corrupt" in caplog.text
        caplog.clear()
        FolderFaces(tree).open()
        assert caplog.text == ""

    def test_objects_are_not_unpickled(self, tree: Path, cache: Path) -> None:
        _age(tree)
        expected = _files(FolderFaces(tree).open())
        (path,) = cache.glob("*.npz")
        np.savez(path, version=np.array(1), folders=np.array([{"a": 1}], dtype=object))
        assert _files(FolderFaces(tree).open()) == expected

    def test_unwritable(
        self, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("no folder")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        with caplog.at_level(logging.INFO):
            assert len(FolderFaces(tree).open()) == 8
        assert caplog.text.count("is not cached") >= 1

    def test_ranks_that_start_together(self, tmp_path: Path, cache: Path) -> None:
        root = make_tree(tmp_path / "many", {f"p{i:03d}": 1 for i in range(30)})
        _age(root)
        context = multiprocessing.get_context("fork")
        results = context.SimpleQueue()
        ranks = [context.Process(target=_rank, args=(root, results)) for _ in range(4)]
        for rank in ranks:
            rank.start()
        found = [results.get() for _ in ranks]
        for rank in ranks:
            rank.join()
        assert {names for names, _ in found} == {tuple(_files(FolderFaces(root, cache_index=False).open()))}
        assert sorted(scanned for _, scanned in found) == [0, 0, 0, 30]  # one rank scans, the others read
        assert len(list(cache.glob("*.npz"))) == 1
        assert not [path for path in cache.iterdir() if path.suffix not in (".npz", ".lock")]


def _rank(root: Path, results: Any) -> None:
    count = 0
    plain = TreeScan._list

    def noted(self: TreeScan, folder: str) -> tuple[Names, Counter[str]]:
        nonlocal count
        count += 1
        return plain(self, folder)

    TreeScan._list = noted  # type: ignore[method-assign]  # this process ends here
    results.put((tuple(_files(FolderFaces(root).open())), count))


def test_index_is_compact(tmp_path: Path) -> None:
    """Peak and lasting memory per image, from two sets of different size."""
    peaks, kept = [], []
    counts = (400, 2400)
    for count in counts:
        root = tmp_path / f"set{count}"
        for person in range(20):
            (root / f"n{person:06d}").mkdir(parents=True)
            for number in range(count // 20):
                (root / f"n{person:06d}" / f"{number:04d}_01.jpg").touch()
        tracemalloc.start()
        reader = FolderFaces(root).open()
        kept.append(tracemalloc.get_traced_memory()[0] + reader.labels.nbytes)
        peaks.append(tracemalloc.get_traced_memory()[1] + reader.labels.nbytes)
        tracemalloc.stop()
        assert len(pickle.dumps(reader)) < 3000 + 50 * count
    per_image = [(b - a) / (counts[1] - counts[0]) for a, b in (peaks, kept)]
    assert per_image[0] < 200
    assert per_image[1] < 60


def test_workers_give_the_same_batches(tree: Path) -> None:
    (tree / "ann" / "ann_0002.jpg").write_bytes(b"broken")
    reader = FolderFaces(tree, size=20).open()
    batches = [[5, 1], [0, 7, 3], [4]]
    loader: DataLoader[Batch] = DataLoader(
        reader, batch_sampler=batches, num_workers=2, collate_fn=whole, multiprocessing_context="fork"
    )
    for indices, batch in zip(batches, loader, strict=True):
        expected = reader.__getitems__(indices)
        assert torch.equal(batch["image"], expected["image"])
        assert torch.equal(batch["bad"], expected["bad"])
        assert batch["index"].tolist() == indices
