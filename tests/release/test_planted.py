"""A raw set with everything a reviewer would plant in it: what is released, what is refused, what leaks."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from datamodules import DrawnFaces
from datamodules.readers.bad_images import BadImage
from datamodules.readers.base import Pixels
from datamodules.readers.index import Names
from datamodules.readers.recordio import RecordIOFaces
from lightning_app.masks import load_mask
from lightning_app.release import Pseudonyms
from lightning_app.release.format.entries import REASONS
from tests.datamodules.face_files import encoded, insightface_records, picture, write_records
from tests.release.released import CROP, KEY, SIZE, contents, raw_tree, reader_of, release

SECRET = b"Anna Secret"


def with_metadata() -> bytes:
    """A JPEG with EXIF, a thumbnail of the raw face in it, XMP, an ICC profile and a comment."""
    image = picture(7)
    thumbnail = encoded(image.resize((30, 25)), "JPEG")
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()  # ImageDescription
    exif[0x013B] = SECRET.decode()  # Artist
    entries = exif.tobytes()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return encoded(
        image, "JPEG", exif=entries + thumbnail, icc_profile=profile, comment=SECRET, quality=95,
        xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + SECRET + b"</x:xmpmeta>",
    )  # fmt: skip


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(8), "JPEG", exif=exif)


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    root = raw_tree(tmp_path / "raw", people=2, each=3)
    secret = root / SECRET.decode()
    secret.mkdir()
    (secret / "meta.jpg").write_bytes(with_metadata())
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", SECRET.decode())
    info.add_itxt("XML:com.adobe.xmp", SECRET.decode(), zip=True)
    (secret / "text.png").write_bytes(encoded(picture(9), "PNG", pnginfo=info))
    (secret / "deep.png").write_bytes(
        encoded(Image.fromarray(np.arange(60 * 50, dtype=np.uint16).reshape(50, 60) * 20), "PNG")
    )
    (secret / "palette.png").write_bytes(encoded(picture(10).quantize(64), "PNG", transparency=3))
    (secret / "cmyk.jpg").write_bytes(encoded(picture(11, "CMYK"), "JPEG"))
    (secret / "case.jpg").write_bytes(encoded(picture(12), "JPEG"))
    (secret / "CASE.jpg").write_bytes(encoded(picture(13), "JPEG"))
    (secret / "turned.jpg").write_bytes(turned())
    (secret / "cut.jpg").write_bytes(encoded(picture(14), "JPEG")[:700])
    (secret / "cut.png").write_bytes(encoded(picture(15), "PNG")[:-900])
    (secret / "none.jpg").write_bytes(b"")
    (secret / "words.jpg").write_bytes(b"these are words")
    (secret / "film.jpg").write_bytes(encoded(picture(16), "GIF"))
    (secret / "small.jpg").write_bytes(encoded(picture(17, width=30, height=30), "JPEG"))
    (secret / "scan.tiff").write_bytes(encoded(picture(18), "TIFF"))
    (secret / ".hidden.jpg").write_bytes(encoded(picture(19), "JPEG"))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "private.jpg").write_bytes(encoded(picture(20), "JPEG"))
    (secret / "link.jpg").symlink_to(outside / "private.jpg")
    (secret / "inner.jpg").symlink_to(root / "Person 0" / "0.jpg")
    (secret / "broken.jpg").symlink_to(outside / "gone.jpg")
    (root / "Person 9").symlink_to(outside)
    os.mkfifo(secret / "pipe.jpg")
    (secret / "folder").mkdir()
    (root / "readme.txt").write_text("a list of names")
    nobody = root / "Nobody"
    nobody.mkdir()
    (nobody / "1.jpg").write_bytes(b"broken")
    return root


REFUSED = {
    "not upright (EXIF)": 1,
    "truncated": 2,
    "empty file": 1,
    "unknown format": 4,  # words, a GIF, a TIFF, and Nobody's only file
    "smaller than the crop": 1,
    "hidden name": 1,
    "outside the tree": 2,  # a link to a file, and the file in a linked folder
    "broken link": 1,
    "special file": 1,
    "folder within an identity's": 1,
    "outside the identities' folders": 1,
}


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_released_and_what_is_refused(planted: Path, tmp_path: Path, workers: int) -> None:
    made = release(tmp_path, planted, workers=workers)
    assert made.manifest.refused == REFUSED
    reasons = {Path(file).name: reason for file, reason, _ in made.refused}
    for name, reason in (
        ("turned.jpg", "not upright (EXIF)"), ("cut.jpg", "truncated"), ("cut.png", "truncated"),
        ("none.jpg", "empty file"), ("words.jpg", "unknown format"), ("film.jpg", "unknown format"),
        ("scan.tiff", "unknown format"), ("small.jpg", "smaller than the crop"), ("link.jpg", "outside the tree"),
        ("private.jpg", "outside the tree"), ("broken.jpg", "broken link"), ("pipe.jpg", "special file"),
        ("folder", "folder within an identity's"), ("readme.txt", "outside the identities' folders"),
    ):  # fmt: skip
        assert reasons[name] == reason, name
    assert made.manifest.identities == 3, "Nobody and the linked folder have no good image"
    secret = planted / SECRET.decode()
    good = {
        name: np.asarray(Image.open(secret / name).convert("RGB"), np.uint8)
        for name in ("meta.jpg", "text.png", "palette.png", "cmyk.jpg", "case.jpg", "CASE.jpg", "inner.jpg")
    }
    good["deep.png"] = np.repeat(
        (np.asarray(Image.open(secret / "deep.png")) // 256).astype(np.uint8)[..., None], 3, 2
    )
    names, who = Pseudonyms(KEY), SECRET.decode()
    assert made.manifest.images == 6 + len(good)
    mask = load_mask(tmp_path / "mask.png")[0].numpy().astype(np.uint8)
    for name, pixels in good.items():
        left, top = round((pixels.shape[1] - CROP) / 2), round((pixels.shape[0] - CROP) / 2)
        cut = Image.fromarray(pixels[top : top + CROP, left : left + CROP])
        expected = np.asarray(cut.resize((SIZE, SIZE), Image.Resampling.BILINEAR)) * mask[..., None]
        path = f"images/{names.identity(who)}/{names.image(who, f'{who}/{name}')}.png"
        with Image.open(tmp_path / "out" / path) as image:
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), expected, name)


def test_nothing_of_the_source_survives(planted: Path, tmp_path: Path) -> None:
    source = with_metadata()
    assert source.count(SECRET) >= 4
    assert source.count(b"\xff\xd8\xff") == 2, "the thumbnail is in it"
    release(tmp_path, planted)
    found = contents(tmp_path / "out")
    words = [SECRET, b"Anna", b"Person", b"Nobody", b"private", b"eXIf", b"tEXt", b"iTXt", b"iCCP", b"JFIF"]
    words.append(str(tmp_path).encode())
    for name, data in found.items():
        for word in words:
            assert word not in data, (name, word)
            assert word.decode("latin-1") not in name
        if name.endswith(".png"):
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                assert not image.info, name
                assert not image.getexif(), name


def test_pixels_under_the_mask_change_nothing(tmp_path: Path) -> None:
    """The raw set with other pixels under the mask is the same release, byte for byte."""
    rng = np.random.default_rng(0)
    mask = None
    for name in ("raw", "other"):
        for person in ("a", "b"):
            (tmp_path / name / person).mkdir(parents=True)
            for number in range(3):
                pixels = np.asarray(picture(number).resize((SIZE, SIZE)))
                if name == "other":
                    assert mask is not None
                    noise = rng.integers(0, 256, pixels.shape, dtype=np.uint8)
                    pixels = np.where(mask[..., None], pixels, noise)
                image = Image.fromarray(pixels)
                (tmp_path / name / person / f"{number}.png").write_bytes(encoded(image, "PNG"))
        reader = reader_of(tmp_path / name)
        reader.crop = None
        release(tmp_path, tmp_path / name, f"{name} out", reader=reader)
        mask = load_mask(tmp_path / "mask.png")[0].numpy().astype(bool)
    assert contents(tmp_path / "raw out") == contents(tmp_path / "other out")


def test_a_name_that_leads_out_of_the_tree(tmp_path: Path) -> None:
    """No file can be called so, but a poisoned cache of the scan can say it."""
    root = raw_tree(tmp_path / "raw")
    (tmp_path / "private.jpg").write_bytes(encoded(picture(30), "JPEG"))
    reader = reader_of(root).open()
    files = [reader._files[i] for i in range(20)]
    files[3] = "../../private.jpg"
    reader._files = Names.of(files)
    made = release(tmp_path, root, reader=reader)
    assert made.manifest.refused == {"outside the tree": 1}
    assert made.manifest.images == 19
    reader.strict = False  # `fit` follows links, people keep their sets so
    assert reader.read(3).shape == (3, SIZE, SIZE)


def test_records_that_are_not_upright(tmp_path: Path) -> None:
    images = [
        (0, encoded(picture(0))),
        (0, turned()),
        (1, encoded(picture(1))),
        (1, encoded(picture(2))[:500]),
    ]
    write_records(tmp_path / "train.rec", insightface_records(images))
    records = RecordIOFaces(tmp_path / "train.rec", size=SIZE, cache_index=False)
    made = release(tmp_path, tmp_path, reader=records)
    assert made.manifest.refused == {"not upright (EXIF)": 1, "truncated": 1}
    assert [file.split("[")[1][:10] for file, _, _ in made.refused] == ["identity 0", "identity 1"]


class Chatty(DrawnFaces):
    """A reader that puts a name into its reason."""

    def read(self, index: int) -> Pixels:
        if index == 1:
            raise BadImage("Anna: bad", reason="Anna Secret moved")
        return super().read(index)


def test_a_reason_names_nobody(planted: Path, tmp_path: Path) -> None:
    made = release(tmp_path, tmp_path, reader=Chatty(identities=2, images_per_identity=2, size=SIZE))
    assert made.manifest.refused == {"other": 1}
    assert made.refused[0][1:] == ("Anna Secret moved", "Anna: bad")
    assert set(REFUSED) <= REASONS
    (planted / "Person 0" / "0.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(300))
    again = release(tmp_path, planted, "again")
    assert set(again.manifest.refused) <= REASONS - {"other"}


def test_only_people_who_were_chosen(planted: Path, tmp_path: Path) -> None:
    (tmp_path / "people.txt").write_text("Person 0\nPerson 1\n")
    reader = reader_of(planted)
    reader.people = tmp_path / "people.txt"
    made = release(tmp_path, planted, reader=reader)
    assert made.manifest.refused == {"outside the identities' folders": 1}
    assert (made.manifest.identities, made.manifest.images) == (2, 6)


def test_no_good_image(tmp_path: Path) -> None:
    root = raw_tree(tmp_path / "raw", people=2, each=1)
    for path in root.rglob("*.*"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no image of the set can be released \(empty file: 2\)"):
        release(tmp_path, root)
    assert not (tmp_path / "out").exists()
    assert contents(tmp_path / "out of the owner").keys() == {"desensitize.lock"}
