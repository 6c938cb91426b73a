"""What lies in a set and is not read, is turned or cannot be decoded is told of in a line."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from datamodules import FaceDataModule
from datamodules.readers.celeba import CelebAFaces
from datamodules.readers.class_folders import ClassFolders
from datamodules.readers.folder import FolderFaces
from datamodules.readers.stored import tell_of_stored
from datamodules.serving import Served
from datamodules.verification.readers import PairFaces
from lightning_app.alignment.listing import list_images
from tests.datamodules.face_files import encoded, make_tree, picture

ONLY = r"only \.jpg, \.jpeg, \.png, \.webp right in a folder are"
KINDS = r"4 in folders within them, 2 \.bmp, 2 \.gif, 2 \.jfif, 2 \.tif"
MIXED = rf"12 of 14 files in its folders are not read \({KINDS}\): {ONLY}"


@pytest.fixture(autouse=True)
def _listens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def _mixed(root: Path) -> Path:
    """Two people with one JPEG each, and what readers pass over; hidden files and litter count for nothing."""
    make_tree(root, {"ann": 1, "bob": 1})
    for person in ("ann", "bob"):
        for name in (
            "a.bmp",
            "b.GIF",
            "c.tif",
            "d.jfif",
            "deeper/e.jpg",
            "deeper/f/g.png",
            ".DS_Store",
            "Thumbs.db",
        ):
            path = root / person / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    return root


@pytest.mark.parametrize("cached", [True, False])
def test_a_tree(cached: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = _mixed(tmp_path / "set")
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        assert len(FolderFaces(root, cache_index=cached).open()) == 2
        assert [r.levelname for r in caplog.records] == ["WARNING"]
        assert caplog.messages[0].startswith(f"root={root}: ")
        assert re.search(MIXED, caplog.text)
    (root / "ann" / "h.tiff").write_bytes(b"x")
    caplog.clear()
    FolderFaces(root, cache_index=cached).open()
    assert "13 of 15 files" in caplog.text
    assert "1 .tiff" in caplog.text


def test_only_those_who_are_taken_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = _mixed(tmp_path / "set")
    make_tree(root, {"cy": 2, "dan": 2})
    (tmp_path / "people.txt").write_text("cy\ndan\n")
    FolderFaces(root, people=tmp_path / "people.txt").open()
    assert not caplog.records
    (root / "beside.jpg").write_bytes(b"x")
    FolderFaces(root, people=tmp_path / "people.txt").open()
    assert "1 of 5 files in its folders are not read (1 beside them)" in caplog.text


def test_a_tree_in_which_nothing_is_read(tmp_path: Path) -> None:
    make_tree(tmp_path / "train", {"ann": 2, "bob": 2})
    make_tree(tmp_path / "val", {"ann": 1, "bob": 1})
    with pytest.raises(
        ValueError, match=r"none of its 3 folders has images .*6 of 6 .*\(6 in folders within them\)"
    ):
        FolderFaces(tmp_path).open()


def test_a_link_that_leads_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_tree(tmp_path, {"ann": 2, "bob": 2})
    (tmp_path / "ann" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "ann" / "up").symlink_to(tmp_path)  # a circle
    assert len(FolderFaces(tmp_path).open()) == 4
    assert "1 broken links or special files (.jpg)" in caplog.text


def test_class_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _mixed(tmp_path / "train")
    ClassFolders(tmp_path).open()
    assert "12 of 14 files in its folders are not read" in caplog.text


def test_celeba(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = tmp_path / "img_align_celeba"
    images.mkdir()
    for number in (1, 2, 3):
        (images / f"00000{number}.jpg").write_bytes(encoded(picture(number)))
    (images / "000004.bmp").write_bytes(b"x")
    rows = "".join(f"00000{number}.jpg {-1 if number % 2 else 1}\n" for number in (1, 2, 3, 4))
    (tmp_path / "list_attr_celeba.txt").write_text(f"4\nSmiling\n{rows}")
    partition = "".join(f"00000{number}.jpg 0\n" for number in (1, 2, 3, 4))
    (tmp_path / "list_eval_partition.txt").write_text(partition)
    assert len(CelebAFaces(tmp_path, attributes=["Smiling"]).open()) == 3
    assert "1 of 4 files in its folders are not read (1 .bmp)" in caplog.text
    for path in images.glob("*.jpg"):
        path.rename(path.with_suffix(".bmp"))
    with pytest.raises(
        FileNotFoundError, match=r"no folder .* with images in it \(img_align_celeba: 4 of 4 files"
    ):
        CelebAFaces(tmp_path, attributes=["Smiling"]).open()


def test_align(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = _mixed(tmp_path / "set")
    (root / "flat.bmp").write_bytes(b"x")
    assert len(list_images(root)) == 2
    assert "13 of 15 files in its folders are not read" in caplog.text


def test_the_reason_of_a_bad_image_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_tree(tmp_path, {"ann": 60, "bob": 60})
    (tmp_path / "ann" / "ann_0002.jpg").write_bytes(b"no image")
    for cache in (False, True):
        served = Served.of(FolderFaces(tmp_path, size=16).open(), cache, False)
        served.bad.add(served.reader.__getitems__([1, 2])["bad"])
        caplog.clear()
        served.warn_of_bad_images()
        assert "1 of 120 images cannot be decoded and were replaced" in caplog.text
        assert "ann_0002.jpg: cannot be decoded (no JPEG, PNG or WebP)" in caplog.text
    for number in (3, 4):
        path = tmp_path / "bob" / f"bob_000{number}.jpg"
        path.write_bytes(path.read_bytes()[:300])
    served = Served.of(FolderFaces(tmp_path, size=16).open(), False, False)
    served.bad.add(served.reader.__getitems__(range(120))["bad"])
    with pytest.raises(
        ValueError, match=r"3 of 120 images .*bob_0003\.jpg: cannot be decoded \(Truncated File Read"
    ):
        served.warn_of_bad_images()


def _lying(path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path.write_bytes(encoded(picture(7), exif=exif))


def _fit(root: Path) -> None:
    FaceDataModule(FolderFaces(root, crop=50, size=16)).setup("fit")


def _predict(root: Path) -> None:
    FaceDataModule(FolderFaces(root, crop=50, size=16)).predict_dataloader()


@pytest.mark.parametrize("start", [_fit, _predict])
def test_turned_images_are_told_of(
    start: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_tree(tmp_path, {"ann": 3, "bob": 3})
    start(tmp_path)
    assert not caplog.records
    _lying(tmp_path / "bob" / "bob_0002.jpg")
    start(tmp_path)
    assert "data.reader: 1 of 6 images looked at are to be turned, says their EXIF" in caplog.text
    assert (
        "bob_0002.jpg. They are turned upright here; desensitize refuses them: align the set" in caplog.text
    )


def test_turned_images_of_pairs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_tree(tmp_path, {"ann": 3, "bob": 3})
    _lying(tmp_path / "ann" / "ann_0001.jpg")
    (tmp_path / "pairs.txt").write_text("ann 1 2\nbob 1 2\nann 1 bob 1\nann 2 bob 2\n")
    tell_of_stored(PairFaces(tmp_path, size=16), "lfw")
    assert "lfw: 1 of 4 images looked at are to be turned" in caplog.text


@pytest.mark.parametrize(("crop", "told"), [(None, True), (16, False)])
def test_images_that_are_not_square_are_told_of(
    crop: int | None, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("ann", "bob"):
        (tmp_path / name).mkdir()
        for number in (1, 2, 3):
            side = (40, 24) if (name, number) == ("bob", 3) else (24, 24)
            (tmp_path / name / f"{name}_{number:04d}.jpg").write_bytes(encoded(picture(number, "RGB", *side)))
    FaceDataModule(FolderFaces(tmp_path, size=16, crop=crop)).setup("fit")
    line = "data.reader: 1 of 6 images looked at are not square, the first is"
    assert (line in caplog.text) == told
    assert (
        "bob_0003.jpg of 40×24 pixels. They are squeezed into a square with crop: null" in caplog.text
    ) == told
