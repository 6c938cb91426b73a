from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from PIL import Image

from datamodules.readers.bad_images import BadImage
from datamodules.readers.decode import decode
from datamodules.readers.webp import is_lossy_webp
from tests.datamodules.face_files import encoded, picture


def still(**options: object) -> bytes:
    return encoded(picture(1), "WEBP", **options)


def clear(**options: object) -> bytes:
    return encoded(picture(1, "RGBA"), "WEBP", **options)


def film(**options: object) -> bytes:
    return encoded(picture(1), "WEBP", save_all=True, append_images=[picture(2)], **options)


def extended(**options: object) -> bytes:
    exif = Image.Exif()
    exif[0x010E] = "odd"
    return still(exif=exif, icc_profile=b"abc", **options)


@pytest.mark.parametrize("make", [still, clear, film, extended])
def test_each_way_a_webp_is_packed(make: Callable[..., bytes]) -> None:
    assert is_lossy_webp(make(quality=100))
    assert is_lossy_webp(make(quality=50))
    assert not is_lossy_webp(make(lossless=True))


def test_a_film_of_both() -> None:
    """Frames without loss behind one with loss, as `mixed` writes them."""
    lossy, lossless = film(), film(lossless=True)
    first = lossy.index(b"ANMF")
    both = lossy[: first + 8 + struct.unpack_from("<I", lossy, first + 4)[0]]
    both += lossless[lossless.index(b"ANMF") :]
    assert is_lossy_webp(both)


def test_what_is_not_known_to_be_without_loss() -> None:
    data = still(lossless=True)
    assert is_lossy_webp(data[:12]), "no image in it"
    assert is_lossy_webp(data[:12] + b"VP8Z" + data[16:])
    assert is_lossy_webp(data + b"VP8 \x04\0\0\0abcd")
    assert not is_lossy_webp(data + b"ab")
    deep = b"RIFF\0\0\0\0WEBP" + b"ANMF\x10\0\0\0" * 50_000
    assert is_lossy_webp(deep)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_other_formats_are_no_lossy_webp(kind: str) -> None:
    assert not is_lossy_webp(encoded(picture(1), kind))
    assert not is_lossy_webp(b"")


def test_decode_refuses_it_where_it_is_told_to() -> None:
    with pytest.raises(BadImage, match=r"^a\.webp: is a WebP coded with loss: .*allow_lossy_webp") as found:
        decode(still(), None, 32, "a.webp", lossy_webp=False)
    assert found.value.reason == "lossy WebP"
    assert decode(still(), None, 32, "a.webp").shape == (3, 32, 32)
    assert decode(still(lossless=True), None, 32, "a.webp", lossy_webp=False).shape == (3, 32, 32)
