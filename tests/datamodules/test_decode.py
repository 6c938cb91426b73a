from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from datamodules.readers.bad_images import BadImage
from datamodules.readers.decode import Crop, check_geometry, decode, is_turned
from lightning_app.alignment.pixels import Undecodable, read_upright
from lightning_app.masks import MaskLevels, load_mask
from tests.datamodules.face_files import encoded, picture


def test_a_palette_that_is_not_there_is_a_bad_image() -> None:
    """Pillow fails by an assertion without words."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compress(b"".join(b"\0" + bytes(range(8)) for _ in range(8)))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0))
    data += chunk(b"tRNS", b"\xff\xff\xff\0") + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    with pytest.raises(BadImage, match="x: cannot be decoded"):
        decode(data, None, 8, "x")


def test_grey_keeps_one_channel() -> None:
    assert decode(encoded(picture(0, "L")), None, 32, "x").shape == (1, 32, 32)
    assert decode(encoded(picture(0, "RGB")), None, 32, "x").shape == (3, 32, 32)


def test_sixteen_bit_grey_takes_the_upper_byte() -> None:
    values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    pixels = decode(encoded(Image.fromarray(values), "PNG"), None, 64, "x")
    np.testing.assert_array_equal(pixels[0], values // 256)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "JPEG"), ("RGB", "JPEG"), ("L", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("RGB", "WEBP")],
)
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_is_applied(orientation: int, mode: str, kind: str) -> None:
    image, exif = picture(3, mode), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(image, kind, exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        upright = ImageOps.exif_transpose(opened).convert("L" if mode == "L" else "RGB")
    box = (3, 2, 43, 42)  # of the upright image, which may be 50 px wide or high
    expected = np.asarray(upright.crop(box).resize((32, 32), Image.Resampling.BILINEAR))
    found = decode(data, box, 32, "x")
    np.testing.assert_array_equal(found, expected[None] if mode == "L" else _planes(expected))
    turned = 2 <= orientation <= 8
    assert is_turned(data) is turned
    if turned:
        with pytest.raises(BadImage, match=r"x: is to be turned, says its EXIF: align it first"):
            decode(data, None, 32, "x", upright=True)


def _planes(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.broadcast_to(pixels, (3, 32, 32)) if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def test_no_resize_where_the_crop_has_the_size() -> None:
    image = picture(4, "L")
    pixels = decode(encoded(image, "PNG"), (10, 5, 42, 37), 32, "x")
    np.testing.assert_array_equal(pixels[0], np.asarray(image)[5:37, 10:42])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_truncated(kind: str) -> None:
    data = encoded(picture(1), kind)
    with pytest.raises(BadImage, match=r"^faces/a\.jpg: cannot be decoded \(.+\)$"):
        decode(data[: len(data) // 2], None, 32, "faces/a.jpg")


@pytest.mark.parametrize("data", [b"", b"not an image", encoded(picture(1), "GIF")])
def test_no_image(data: bytes) -> None:
    with pytest.raises(BadImage, match="x: cannot be decoded"):
        decode(data, None, 32, "x")


@pytest.mark.parametrize("crop", [51, (0, 0, 61, 50)])
def test_crop_outside(crop: Crop) -> None:
    with pytest.raises(BadImage, match=r"x: crop=.* does not lie within its 60×50 pixels"):
        decode(encoded(picture(1)), crop, 32, "x")


@pytest.mark.parametrize(
    ("crop", "size", "message"),
    [
        (None, 0, "size=0"),
        (0, 32, "crop=0"),
        ((5, 0, 5, 9), 32, r"crop=\[5, 0, 5, 9\]"),
        ((-1, 0, 5, 9), 32, r"crop=\[-1, 0, 5, 9\]"),
    ],
)
def test_geometry(crop: Crop, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_geometry(crop, size)


def _claiming(side: int) -> bytes:
    """A PNG of a few hundred bytes whose header claims so many pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("side", [9_500, 13_000, 100_000])
def test_a_picture_that_claims_too_many_pixels_is_not_decoded(side: int, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_claiming(side))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(BadImage, match=r"a\.png: cannot be decoded \(.*pixels"):
            decode(_claiming(side), None, 20, "a.png")
        with pytest.raises(Undecodable, match=r"a\.png: cannot be decoded \(.*pixels"):
            read_upright(str(tmp_path / "a.png"))
        with pytest.raises(ValueError, match=r"mask .*a\.png cannot be decoded \(.*pixels"):
            load_mask(tmp_path / "a.png", 112)
        with pytest.raises(ValueError, match=r"no mask|a\.png cannot be read \(.*pixels"):
            MaskLevels(tmp_path, 32)


def test_a_mask_of_another_size_is_not_decoded(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_claiming(8000).replace(b"\x08\x02\0\0\0", b"\x08\0\0\0\0", 1))
    head = struct.pack(">IIBBBBB", 8000, 8000, 8, 0, 0, 0, 0)
    raw = bytearray((tmp_path / "a.png").read_bytes())
    raw[29:33] = struct.pack(">I", zlib.crc32(b"IHDR" + head))
    (tmp_path / "a.png").write_bytes(raw)
    with pytest.raises(ValueError, match=r"is 8000×8000, 112×112 is needed"):  # its pixels are truncated
        load_mask(tmp_path / "a.png", 112)
