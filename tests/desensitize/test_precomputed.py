"""What another program made of the images enters by their names, and is read as the images themselves are."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import FolderFaces
from datamodules.face import FaceDataModule
from datamodules.precomputed import Elsewhere, check_pictures
from datamodules.readers.cached import CachedReader
from datamodules.readers.decode import SUFFIXES
from datamodules.readers.subset import Subset
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import OURS, Chain, Mosaic, Precomputed
from lightning_app.desensitize.precomputed import SUFFIXES as FOUND_BY
from lightning_app.desensitize.precomputed import stem
from lightning_app.release.write.desensitizing import PixelDesensitizer
from tests.desensitize.contract import DesensitizerContract

NAMES = ["Ada/Ada_0001.jpg", "Ada/Ada_0002.jpg", "Bea/Bea_0001.jpg", "Bea/Bea_0002.jpg"]


def picture(value: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
    """A flat picture with a mark in a corner, so that a crop shows."""
    pixels = np.full((size[1], size[0], 3), value, np.uint8)
    pixels[:8, :8] = 255
    return Image.fromarray(pixels)


def sets(tmp_path: Path, suffix: str = ".png", size: tuple[int, int] = (40, 40)) -> tuple[Path, Path]:
    """A folder of originals of 40 px, and one of what another program made of them, darker."""
    for number, name in enumerate(NAMES):
        for root, value, side, path in (
            ("raw", 200 + number, (40, 40), name), ("made", 20 + number, size, str(Path(name).with_suffix(suffix))),
        ):  # fmt: skip
            file = tmp_path / root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(value, side).save(file, format=Image.registered_extensions()[file.suffix.lower()])
    return tmp_path / "raw", tmp_path / "made"


def faces(raw: Path, crop: int | None = None, size: int = 40) -> FolderFaces:
    return FolderFaces(raw, crop=crop, size=size, cache_index=False)


def shown(reader: FolderFaces, made: Path) -> torch.Tensor:
    data = FaceDataModule(reader, Precomputed(made))
    images = reader.__getitems__(range(4))["image"]
    return data.desensitized(images, reader=reader)["image"]


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".JPG", ".webp"])
def test_pictures_are_found_by_name_whatever_the_suffix(tmp_path: Path, suffix: str) -> None:
    raw, made = sets(tmp_path, suffix)
    out = shown(faces(raw), made)
    assert out.shape == (4, 3, 40, 40)
    assert (out[:, 0, -1, -1] * 255).round().tolist() == pytest.approx([20, 21, 22, 23], abs=1)


def test_what_was_not_changed_is_read_bit_for_bit_as_the_original_is(tmp_path: Path) -> None:
    raw, _ = sets(tmp_path)
    for reader in (faces(raw), faces(raw, 24, 16)):
        clean = reader.__getitems__(range(4))["image"].float() / 255
        assert torch.equal(shown(reader, raw), clean), "cropped and resized as its original"


def test_a_picture_of_the_size_faces_are_read_at_is_taken_as_it_is(tmp_path: Path) -> None:
    raw, made = sets(tmp_path, size=(16, 16))
    out = shown(faces(raw, crop=24, size=16), made)
    assert out[:, 0, 0, 0].tolist() == [1, 1, 1, 1], "the mark in the corner is not cropped away"


def test_parts_and_caches_name_their_images(tmp_path: Path) -> None:
    raw, made = sets(tmp_path)
    part = Subset(CachedReader(faces(raw)), torch.tensor([3, 1]))
    assert Elsewhere(part, Precomputed(made)).images([0, 1])[:, 0, -1, -1].tolist() == [23, 21]


def test_a_training_batch_is_made_of_the_pictures_and_flipped_after_it(tmp_path: Path) -> None:
    raw, made = sets(tmp_path)
    reader = faces(raw)
    data = FaceDataModule(reader, Precomputed(made), global_batch_size=4, mean=0, std=1)
    data.setup("fit")
    batch = data._desensitized_once(reader.__getitems__([2, 0]), DrawKey(1))
    assert (batch["image"][:, 0, -1, -1] * 255).round().tolist() == [22, 20]
    assert "elsewhere" not in batch


def test_it_may_be_followed_but_not_preceded(tmp_path: Path) -> None:
    raw, made = sets(tmp_path)
    reader = faces(raw)
    data = FaceDataModule(reader, Chain([Precomputed(made), Mosaic(8)]))
    out = data.desensitized(reader.__getitems__([1])["image"], torch.tensor([1]), reader=reader)["image"]
    assert out[0, 0, -1, -1] * 255 == pytest.approx(21)
    with pytest.raises(ValueError, match="put it first"):
        Chain([Mosaic(8), Precomputed(made)])


def test_missing_pictures_are_named_before_anything_is_trained(tmp_path: Path) -> None:
    raw, made = sets(tmp_path)
    (made / "Bea/Bea_0001.png").unlink()
    (made / "Ada/Ada_0002.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"2 of 4 images have no picture in it, the first: .*Ada_0002.*Bea_0001"
    ):
        FaceDataModule(faces(raw), Precomputed(made)).setup("fit")


@pytest.mark.parametrize("size", [(40, 30), (41, 41)])
def test_a_picture_of_another_size_is_named(tmp_path: Path, size: tuple[int, int]) -> None:
    raw, made = sets(tmp_path, size=size)
    wanted = (
        rf"Ada_0001.png: is {size[0]}×{size[1]} pixels, and has to be 40×40 as its original, or 16×16.*4 of 4"
    )
    with pytest.raises(ValueError, match=wanted):
        check_pictures(Precomputed(made), faces(raw, 24, 16))


def test_a_picture_that_was_turned_is_refused(tmp_path: Path) -> None:
    raw, made = sets(tmp_path, ".jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(200).save(raw / NAMES[0], exif=exif)
    with pytest.raises(
        ValueError, match=r"Ada_0001.jpg: its EXIF says another orientation than its original's"
    ):
        check_pictures(Precomputed(made), faces(raw))
    picture(20).save(made / NAMES[0], exif=exif)  # both alike: read alike
    check_pictures(Precomputed(made), faces(raw))


def test_a_picture_whose_pixels_were_turned_for_its_tag_is_taken(tmp_path: Path) -> None:
    raw, made = sets(tmp_path, ".jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(200, (40, 30)).save(raw / NAMES[0], exif=exif)
    picture(20, (30, 40)).save(made / NAMES[0])
    check_pictures(Precomputed(made), faces(raw))
    picture(20, (40, 30)).save(made / NAMES[0])  # the tag dropped, the pixels left
    with pytest.raises(
        ValueError, match=r"Ada_0001.jpg: is 40×30 pixels, and has to be 30×40 as its original"
    ):
        check_pictures(Precomputed(made), faces(raw))


def test_a_damaged_picture_and_two_of_a_name_are_named(tmp_path: Path) -> None:
    raw, made = sets(tmp_path)
    (made / "Bea/Bea_0002.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"Bea_0002.png: cannot be decoded"):
        check_pictures(Precomputed(made), faces(raw))
    sets(tmp_path)
    picture(9).save(made / "Ada/Ada_0001.webp")
    with pytest.raises(
        ValueError, match=r"Ada_0001.png and Ada/Ada_0001.webp are both of .*Ada_0001.jpg: leave one"
    ):
        check_pictures(Precomputed(made), faces(raw))
    picture(50).save(made / "Ada/Ada_0001.jpg")  # the original's own suffix decides
    assert float(shown(faces(raw), made)[0, 0, -1, -1]) * 255 == pytest.approx(50, abs=1)


def test_accents_are_one_however_they_are_stored(tmp_path: Path) -> None:
    raw, made = sets(tmp_path)
    for root, form in ((raw, "NFD"), (made, "NFC")):
        (root / "Bea").rename(root / unicodedata.normalize(form, "Béa"))  # type: ignore[arg-type]
    check_pictures(Precomputed(made), faces(raw))


@pytest.mark.parametrize("made", ["none", "empty"])
def test_a_folder_without_pictures_is_refused(tmp_path: Path, made: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").write_text("x")
    with pytest.raises(FileNotFoundError, match=f"Precomputed root=.*{made}: no "):
        Precomputed(tmp_path / made).prepare((8, 8))


def test_other_images_are_refused(tmp_path: Path) -> None:
    raw, made = sets(tmp_path)
    data = FaceDataModule(faces(raw), Precomputed(made))
    with pytest.raises(
        ValueError, match="has pictures of a set's images, found by name, and none of others: drawn"
    ):
        data.desensitized(torch.zeros(2, 3, 40, 40, dtype=torch.uint8))


def test_no_release_is_made_of_it(tmp_path: Path) -> None:
    _, made = sets(tmp_path)
    for one in (Precomputed(made), Chain([Precomputed(made), Mosaic(8)])):
        with pytest.raises(ValueError, match="made by another program"):
            PixelDesensitizer(one, 40)


def test_its_description_is_of_what_the_folder_holds_and_not_of_where(tmp_path: Path) -> None:
    _, made = sets(tmp_path / "a")
    _, same = sets(tmp_path / "b")
    description = Precomputed(made).describe()
    assert description == Precomputed(same).describe()
    assert description["pictures"] == 4
    assert str(tmp_path) not in str(description)
    picture(1).save(same / "Ada/Ada_0001.png")
    assert description != Precomputed(same).describe()


def test_names_are_found_by_what_readers_take() -> None:
    assert set(FOUND_BY) >= set(SUFFIXES)
    assert stem("Ada\\Ada_0001.JPG") == "Ada/Ada_0001"


class Fed(Precomputed):
    """Gives itself what the data would find: dark pictures, a function of the image's number."""

    has_mask = False

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        pictures = (batch["image"] * 100).byte()
        return super().forward({**batch, "elsewhere": pictures}, draw_key)


class TestPrecomputed(DesensitizerContract):
    from_description = False
    folder: Path

    @pytest.fixture(autouse=True)
    def _made(self, tmp_path: Path) -> None:
        self.folder = sets(tmp_path)[1]

    def make(self) -> Precomputed:
        return Fed(self.folder)


def test_it_stands_in_the_table() -> None:
    assert OURS["Precomputed"] is Precomputed


def test_a_link_out_of_the_folder_is_not_another_programs_picture(tmp_path: Path) -> None:
    """An unpacked archive may hold a link to the original, whose figures would be those of clean faces."""
    raw, made = sets(tmp_path)
    one = made / Path(NAMES[0]).with_suffix(".png")
    one.unlink()
    one.symlink_to(raw / NAMES[0])
    with pytest.raises(ValueError, match=r"Ada/Ada_0001\.png is a link that leads out of the folder"):
        shown(faces(raw), made)
    one.unlink()
    one.symlink_to("Ada_0002.png")
    assert len(Precomputed(made).files) == 4, "within the folder a link is a file"
    one.unlink()
    os.mkfifo(one)
    with pytest.raises(ValueError, match=r"Ada/Ada_0001\.png is no file"):
        shown(faces(raw), made)
