from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from lightning_app.release.format.png import SIGNATURE, read_png

RNG = np.random.default_rng(0)
Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def chunk(name: bytes, content: bytes = b"") -> bytes:
    """Make a chunk."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def header(width: int = 3, height: int = 2, bits: int = 8, colour: int = 0, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace))


ROWS = b"\0abc\0def"  # 2 rows of 3 grey pixels, each after its filter, 0


def whole(*middle: bytes, end: bytes = b"") -> bytes:
    return SIGNATURE + header() + b"".join(middle) + chunk(b"IEND") + end


def image_data(rows: bytes = ROWS, after: bytes = b"") -> bytes:
    return chunk(b"IDAT", zlib.compress(rows) + after)


def encoded(pixels: Pixels, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (112, 112), (1, 1, 3), (6, 9, 3), (64, 64, 3)])
@pytest.mark.parametrize("smooth", [False, True])
def test_pixels_equal_opencvs_and_pillows(shape: tuple[int, ...], smooth: bool) -> None:
    pixels: Pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    if smooth:  # every kind of row filter gets used
        pixels = np.cumsum(RNG.integers(0, 4, shape), axis=0).astype(np.uint8)
    for data in (encoded(pixels), encoded(pixels, compress_level=0), encoded(pixels, optimize=True)):
        found = read_png(data)
        assert found.faults == []
        assert found.pixels is not None
        assert found.pixels.dtype == np.uint8
        decoded: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if len(shape) == 3:
            decoded = decoded[..., ::-1]
        np.testing.assert_array_equal(found.pixels, decoded.reshape(found.pixels.shape))
        np.testing.assert_array_equal(found.pixels, pixels.reshape(found.pixels.shape))


@pytest.mark.parametrize("kind", range(5))
def test_every_row_filter_is_undone(kind: int) -> None:
    """Against the rules of the standard, section 9.2, written out."""
    rows = RNG.integers(0, 256, (4, 5), dtype=np.uint8)
    filtered = b"".join(bytes([kind]) + row.tobytes() for row in rows)
    data = SIGNATURE + header(5, 4) + chunk(b"IDAT", zlib.compress(filtered)) + chunk(b"IEND")
    out = np.zeros((5, 6), dtype=int)
    for y in range(4):
        for x in range(5):
            a, b, c = out[y + 1, x], out[y, x + 1], out[y, x]
            p = a + b - c
            paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            out[y + 1, x + 1] = (int(rows[y, x]) + (0, a, b, (a + b) // 2, paeth)[kind]) % 256
    found = read_png(data)
    assert found.faults == []
    assert found.pixels is not None
    np.testing.assert_array_equal(found.pixels[..., 0], out[1:, 1:])


def test_several_data_chunks_are_one_stream() -> None:
    stream = zlib.compress(ROWS)
    parts = [chunk(b"IDAT", stream[i : i + 3]) for i in range(0, len(stream), 3)]
    found = read_png(whole(*parts))
    assert found.faults == []
    assert found.pixels is not None
    assert found.pixels.tobytes() == b"abcdef"


@pytest.mark.parametrize(
    "name", [b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"tIME", b"pHYs", b"tRNS", b"gAMA", b"prVt"]
)
def test_every_other_chunk_is_a_fault(name: bytes) -> None:
    for data in (whole(chunk(name, b"Ann"), image_data()), whole(image_data(), chunk(name, b"Ann"))):
        found = read_png(data)
        assert found.faults == [
            f"has a chunk {name.decode()} of 3 bytes: only IHDR, IDAT and IEND may be there"
        ]
        assert "Ann" not in found.faults[0]
        assert found.pixels is not None  # it is decoded all the same


def test_what_pillow_writes_of_metadata_is_found() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "Ann")
    info.add_itxt("XML:com.adobe.xmp", "<x/>")
    exif = Image.Exif()
    exif[0x010E] = "Ann"
    pixels = RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    data = encoded(pixels, pnginfo=info, exif=exif, icc_profile=b"profile", dpi=(72, 72))
    said = " ".join(read_png(data).faults)
    for name in ("tEXt", "iTXt", "eXIf", "iCCP", "pHYs"):
        assert f"chunk {name}" in said


FAULTS = {
    "no PNG": (b"\xff\xd8\xff", "is no PNG"),
    "empty": (b"", "is no PNG"),
    "bytes after IEND": (whole(image_data(), end=b"x"), "has 1 bytes after IEND"),
    "a second image after IEND": (whole(image_data(), end=whole(image_data())), "bytes after IEND"),
    "IEND is not empty": (
        SIGNATURE + header() + image_data() + chunk(b"IEND", b"Ann"),
        "has 3 bytes in its IEND chunk",
    ),
    "surplus after the stream": (
        whole(image_data(after=b"secret")),
        "has 6 bytes after the end of its zlib stream",
    ),
    "surplus in a chunk of its own": (
        whole(image_data(), chunk(b"IDAT", b"secret")),
        "has 6 bytes after the end of its zlib stream",
    ),
    "surplus rows": (whole(image_data(ROWS + b"\0ghi")), "has more image data than pixels"),
    "one surplus byte": (whole(image_data(ROWS + b"g")), "has more image data than pixels"),
    "too few rows": (whole(image_data(ROWS[:4])), "ends after 4 of 8 bytes"),
    "no rows": (whole(), "ends after 0 of 8 bytes"),
    "stream without end": (whole(chunk(b"IDAT", zlib.compress(ROWS)[:-4])), "its zlib stream has no end"),
    "stream damaged": (whole(chunk(b"IDAT", b"\0" * 20)), "cannot be inflated"),
    "checksum of the stream": (
        whole(chunk(b"IDAT", zlib.compress(ROWS)[:-1] + b"?")),
        "cannot be inflated",
    ),
    "filter of no kind": (whole(image_data(b"\x05abc\0def")), "its rows cannot be decoded"),
    "truncated in a chunk": (whole(image_data())[:-20], "is cut short within a chunk IDAT"),
    "truncated between chunks": (SIGNATURE + header() + image_data(), "is cut short: no IEND chunk"),
    "CRC": (
        whole(image_data())[:-1] + b"?",
        "the CRC of a chunk IEND does not hold",
    ),
    "two headers": (whole(header(), image_data()), "its IHDR chunk is not the first, or there are several"),
    "header not first": (
        SIGNATURE + image_data() + header() + chunk(b"IEND"),
        "its IHDR chunk is not the first, or there are several",
    ),
    "short header": (SIGNATURE + chunk(b"IHDR", b"abc") + chunk(b"IEND"), "its IHDR chunk is damaged"),
    "palette": (SIGNATURE + header(colour=3) + image_data() + chunk(b"IEND"), "is not plain 8-bit grey or RGB"),
    "alpha": (SIGNATURE + header(colour=6) + image_data() + chunk(b"IEND"), "is not plain 8-bit grey or RGB"),
    "16 bits": (SIGNATURE + header(bits=16) + image_data() + chunk(b"IEND"), "is not plain 8-bit grey or RGB"),
    "interlaced": (SIGNATURE + header(interlace=1) + image_data() + chunk(b"IEND"), "interlace 1"),
    "no pixels": (SIGNATURE + header(width=0) + image_data() + chunk(b"IEND"), "claims 0×2 pixels"),
    "too many": (SIGNATURE + header(width=1 << 20) + image_data() + chunk(b"IEND"), "claims 1048576×2 pixels"),
    "too many of a square": (SIGNATURE + header(width=2049) + image_data() + chunk(b"IEND"), "claims 2049×2 pixels"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_named(case: str) -> None:
    data, words = FAULTS[case]
    faults = read_png(data).faults
    assert any(words in fault for fault in faults), faults


def test_a_bomb_is_not_inflated() -> None:
    bomb = zlib.compress(b"\0" * 50_000_000)
    assert len(bomb) < 60_000
    found = read_png(whole(chunk(b"IDAT", bomb)))
    assert found.faults == ["has more image data than pixels"]


def test_no_single_changed_bit_goes_unseen() -> None:
    good = encoded(RNG.integers(0, 256, (3, 3), dtype=np.uint8))
    assert read_png(good).faults == []
    for place in range(len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[place] ^= 1 << bit
            assert read_png(bytes(bad)).faults, (place, bit)
