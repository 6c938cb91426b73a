"""A face hidden in how an image is written: the same pixels in other bytes, planted in every place there is."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image

from lightning_app.core.key_file import write_secret
from lightning_app.core.png import deflated, encode_png, filtered
from lightning_app.masks.io import sidecar
from lightning_app.release.audit.images import Checks, check_images
from lightning_app.release.audit.run import audit
from lightning_app.release.format.deflate import take_apart
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.png import data_chunks, read_png
from lightning_app.release.format.public import made_with
from lightning_app.release.format.signing import fingerprint, sign
from lightning_app.studies.audit import audit as command
from tests.release.by_hand import KEY, images, relist, said, set_times, sha256
from tests.release.test_png import chunk

FACE = bytes(range(7, 247, 8))  # 30 bytes that must not leave
Planted = Callable[[bytes], bytes]


def signed(root: Path) -> Ed25519PrivateKey:
    """Sign a release as it is: the owner's own software was the one that hid something."""
    key = Ed25519PrivateKey.generate()
    relist(root, signer=fingerprint(key.public_key()))
    (root / "manifest.sig").write_text(sign((root / "manifest.json").read_bytes(), key))
    set_times(root)
    return key


def rewritten(data: bytes, stream: bytes, split: int = 0) -> bytes:
    """The same file with another zlib stream, in one IDAT chunk or in two."""
    parts = [stream[:split], stream[split:]] if split else [stream]
    return data[:33] + b"".join(chunk(b"IDAT", part) for part in parts) + chunk(b"IEND")


def rows_of(data: bytes) -> bytes:
    return zlib.decompress(b"".join(data_chunks(data)))


def wrapped(blocks: bytes, rows: bytes) -> bytes:
    return b"\x78\x01" + blocks + struct.pack(">I", zlib.adler32(rows))


def empty_blocks(data: bytes) -> bytes:
    """Empty stored blocks before the data: each has five bits of padding that nobody reads."""
    rows = rows_of(data)
    padded = b"".join(bytes([(value & 31) << 3, 0, 0, 0xFF, 0xFF]) for value in FACE)
    return rewritten(data, wrapped(padded + deflated(rows, 1)[2:-4], rows))


def stored_blocks(data: bytes) -> bytes:
    """Stored blocks whose lengths say something."""
    rows, blocks, at = rows_of(data), b"", 0
    for value in FACE:
        blocks += struct.pack("<BHH", 0, value, value ^ 0xFFFF) + rows[at : at + value]
        at += value
        if at > len(rows) - 300:
            break
    left = len(rows) - at
    return rewritten(data, wrapped(blocks + struct.pack("<BHH", 1, left, left ^ 0xFFFF) + rows[at:], rows))


def filters(data: bytes) -> bytes:
    """A filter of its own for each row: Sub or none."""
    pixels = read_png(data).pixels
    assert pixels is not None
    height, width, channels = pixels.shape
    rows = bytearray(filtered(pixels if channels == 3 else pixels[..., 0]))
    step = 1 + width * channels
    for row in range(1, height, 2):
        rows[row * step : (row + 1) * step] = b"\0" + pixels[row].tobytes()
    return rewritten(data, deflated(bytes(rows), 1))


def split(data: bytes) -> bytes:
    """Two IDAT chunks: where they part is a message."""
    return rewritten(data, data_chunks(data)[0], 17)


def no_data(data: bytes) -> bytes:
    """Empty IDAT chunks: how many is a message."""
    (stream,) = data_chunks(data)
    return data[:33] + chunk(b"IDAT") * 5 + chunk(b"IDAT", stream) + chunk(b"IEND")


def last_bits(data: bytes) -> bytes:
    """The bits between the last block and the checksum."""
    rows = rows_of(data)
    body = bytearray(deflated(rows, 1)[2:-4])
    body[-1] |= 0x80  # the last byte's highest bit is of no code, unless the stream happens to fill it
    assert zlib.decompress(bytes(body), -15) == rows, "take another image"
    return rewritten(data, wrapped(bytes(body), rows))


def other_level(data: bytes) -> bytes:
    return rewritten(data, deflated(rows_of(data), 6))


def no_level(data: bytes) -> bytes:
    return rewritten(data, deflated(rows_of(data), 0))


def other_matches(data: bytes) -> bytes:
    """Level 9, a smaller window's worth of memory, another strategy: the same pixels once more."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, 15, 1, zlib.Z_DEFAULT_STRATEGY)
    return rewritten(data, deflater.compress(rows_of(data)) + deflater.flush())


def flushed(data: bytes) -> bytes:
    """Blocks that end where the writer liked."""
    rows = rows_of(data)
    deflater = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    parts = [
        deflater.compress(rows[at : at + 200]) + deflater.flush(zlib.Z_PARTIAL_FLUSH)
        for at in range(0, len(rows), 200)
    ]
    return rewritten(data, b"".join(parts) + deflater.flush())


def fixed_codes(data: bytes) -> bytes:
    """Z_FIXED and runs: another choice of code per image."""
    deflater = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_FIXED)
    return rewritten(data, deflater.compress(rows_of(data)) + deflater.flush())


def flevel(data: bytes) -> bytes:
    """The bits of zlib's header that say how hard it tried."""
    (stream,) = data_chunks(data)
    return rewritten(data, b"\x78\xda" + stream[2:])


def coloured(data: bytes) -> bytes:
    """A grey image stored as RGB."""
    pixels = read_png(data).pixels
    assert pixels is not None
    return encode_png(np.repeat(pixels[..., :1], 3, axis=2))


def window(data: bytes) -> bytes:
    """The size of the window in zlib's header."""
    (stream,) = data_chunks(data)
    return rewritten(data, b"\x68\x05" + stream[2:])


PLACES: dict[str, tuple[Planted, str]] = {
    "padding of empty stored blocks": (empty_blocks, "an empty block"),
    "lengths of stored blocks": (stored_blocks, "stored blocks that end early"),
    "row filters": (filters, "rows with other PNG filters"),
    "IDAT chunks": (split, "2 IDAT chunks"),
    "empty IDAT chunks": (no_data, "6 IDAT chunks"),
    "bits after the last block": (last_bits, "bits after the last block"),
    "another level": (other_level, "zlib's level is 6"),
    "nothing compressed": (no_level, "zlib's level is 0"),
    "other matches": (other_matches, "another zlib header"),
    "flushed blocks": (flushed, "blocks that end early"),
    "codes": (fixed_codes, "other matches or codes"),
    "FLEVEL": (flevel, "another zlib header"),
    "window": (window, "another zlib header"),
    "colour type": (coloured, "a grey image stored as RGB"),
}  # fmt: skip


def plant(root: Path, place: str, at: int = 7) -> str:
    """Write an image of a release in another way; its name."""
    one = images(root)[at]
    before = one.read_bytes()
    if place == "colour type":
        before = encode_png(np.ascontiguousarray(np.asarray(Image.open(one))[..., 0]))
    one.write_bytes(PLACES[place][0](before))
    assert one.read_bytes() != before
    after, pixels = np.asarray(Image.open(one)), np.asarray(Image.open(io.BytesIO(before)))
    np.testing.assert_array_equal(
        after, pixels if after.ndim == pixels.ndim else pixels[..., None].repeat(3, 2)
    )
    return one.relative_to(root).as_posix()


@pytest.mark.parametrize("place", PLACES)
def test_a_face_hidden_in_an_image_is_found(released: Path, place: str) -> None:
    """Hidden by the owner's own software, which lists and signs it."""
    name = plant(released, place)
    key = signed(released)
    for found in (audit(released), audit(released, key.public_key())):
        ((file, (fault,)),) = said(found).items()
        assert file == name
        assert fault.startswith("its bytes are not those that `desensitize` writes of its pixels")
        assert PLACES[place][1] in fault


def test_the_same_with_the_raw_set(released: Path, drawn_root: Path, tmp_path: Path) -> None:
    """All places at once, and images that are good beside them; the pixels are those of the raw set."""
    names = {plant(released, place, at): place for at, place in enumerate(PLACES) if place != "colour type"}
    relist(released)
    write_secret(tmp_path / "key", KEY.hex().encode())
    found = said(command(str(released), raw=str(drawn_root), key=str(tmp_path / "key"), sample=48))
    assert found.keys() == names.keys()
    for name, place in names.items():
        assert any(PLACES[place][1] in what for what in found[name]), place


def other_zlib(root: Path, level: int = 1) -> None:
    """Let the manifest say that another build of zlib made the release."""
    relist(root, versions=made_with() | {"zlib": "1.2.11"}, compression=level)


def searched(data: bytes) -> bytes:
    """As another build may write it at level 6: other matches, all else as zlib does."""
    deflater = zlib.compressobj(6, zlib.DEFLATED, 15, 9, zlib.Z_DEFAULT_STRATEGY)
    return rewritten(data, deflater.compress(rows_of(data)) + deflater.flush())


def test_another_zlib_gives_the_same_bytes_at_level_1(released: Path) -> None:
    other_zlib(released)
    found = audit(released)
    assert (found.findings, found.unproven) == ([], [])


@pytest.mark.parametrize("level", [0, 6, 9])
def test_one_level_for_all(released: Path, level: int) -> None:
    for one in images(released):
        one.write_bytes(rewritten(one.read_bytes(), deflated(rows_of(one.read_bytes()), level)))
    relist(released, **{"compression": level} if hasattr(Manifest.read(released), "compression") else {})
    found = audit(released)
    assert (found.findings, found.unproven) == ([], [])
    one = images(released)[5]
    one.write_bytes(rewritten(one.read_bytes(), deflated(rows_of(one.read_bytes()), 1)))
    relist(released)
    assert list(said(audit(released))) == [one.relative_to(released).as_posix()]


def test_images_that_come_out_alike_at_several_levels(tmp_path: Path) -> None:
    """The few that are looked at do not tell levels apart; one of the others does."""
    rng = np.random.default_rng(0)
    flat, busy = np.zeros((16, 16), np.uint8), rng.integers(0, 4, (16, 16), dtype=np.uint8)
    busy[8:] = busy[:8]  # repeats that runs do not find
    assert encode_png(flat, 4) == encode_png(flat, 2)
    assert encode_png(busy, 4) != encode_png(busy, 2)
    listed = []
    for number in range(40):
        data = encode_png(busy if number == 3 else flat, 4)
        (tmp_path / str(number)).write_bytes(data)
        listed.append((str(number), hashlib.sha256(data).hexdigest()))
    checks = Checks(str(tmp_path), 16, 3, None)
    assert check_images(checks, listed, 1, lambda done: None).faulty == []
    (tmp_path / "4").write_bytes(encode_png(busy, 2))
    (faulty,) = check_images(checks, listed, 1, lambda done: None).faulty
    assert (faulty.name, faulty.misfit) == ("4", True)


def test_another_zlib_is_said_not_proven(released: Path) -> None:
    for one in images(released):
        one.write_bytes(searched(one.read_bytes()))
    relist(released)
    assert len(said(audit(released))) == 48, "the manifest's zlib is this one"
    other_zlib(released)
    assert len(said(audit(released))) == 48, "the manifest's level looks for runs alone"
    other_zlib(released, 6)
    found = audit(released)
    assert found.findings == []
    ours = made_with()["zlib"]
    assert found.unproven == [
        f"that the bytes of 48 images carry nothing else (made by zlib 1.2.11, this is {ours})"
    ]
    assert any("which matches and codes it took is not proven" in note for note in found.notes)


OPEN = ("another level", "codes")  # zlib's own choices


def test_another_zlib_is_no_excuse(released: Path) -> None:
    """What zlib never writes is found without comparing bytes."""
    for one in images(released):
        one.write_bytes(searched(one.read_bytes()))
    names = {
        plant(released, place, 1 + 3 * at): place for at, place in enumerate(PLACES) if place not in OPEN
    }
    other_zlib(released, 6)
    found = audit(released)
    assert len(found.unproven) == 1
    faults = said(found)
    assert faults.keys() == names.keys()
    for name, place in names.items():
        (fault,) = faults[name]
        assert fault.startswith("its bytes are not those that `desensitize` writes"), place


def remask(root: Path, data: bytes) -> None:
    """Return a release another mask file, listed everywhere."""
    (root / "mask.png").write_bytes(data)
    digest = sha256(root / "mask.png")
    facts = json.loads((root / "mask.json").read_bytes()) | {"file_hash": digest}
    (root / "mask.json").write_bytes(sidecar(facts))
    mask = Manifest.read(root).mask
    assert mask is not None
    relist(root, mask=replace(mask, sha256=digest))


@pytest.mark.parametrize("place", [place for place in PLACES if place != "colour type"])
@pytest.mark.parametrize("other", [False, True])
def test_a_face_hidden_in_the_mask_is_found(released: Path, place: str, other: bool) -> None:
    before = (released / "mask.png").read_bytes()
    remask(released, PLACES[place][0](before))
    assert (released / "mask.png").read_bytes() != before
    if other:
        relist(released, versions=made_with() | {"zlib": "1.2.11", "pillow": "9.0.0"})
    ((file, (fault,)),) = said(audit(released)).items()
    assert file == "mask.png"
    assert PLACES[place][1] in fault


def by_pillow(root: Path, **options: object) -> bytes:
    buffer = io.BytesIO()
    with Image.open(root / "mask.png") as image:
        image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_a_mask_of_a_release_of_the_first_format(released: Path) -> None:
    """Pillow wrote it then, with the zlib that it brings."""
    first = {"version": 1, "compression": None}
    ours = by_pillow(released)
    remask(released, ours)
    relist(released, **first)
    assert audit(released).findings == []
    remask(released, by_pillow(released, compress_level=9))
    assert list(said(audit(released))) == ["mask.png"]
    deflater = zlib.compressobj(6, zlib.DEFLATED, 15, 9, zlib.Z_DEFAULT_STRATEGY)
    again = rewritten(ours, deflater.compress(rows_of(ours)) + deflater.flush())
    assert again != ours, "this zlib is Pillow's: take another level"
    remask(released, again)
    assert list(said(audit(released))) == ["mask.png"]
    relist(released, versions=made_with() | {"pillow": "9.0.0"})
    found = audit(released)
    assert found.findings == []
    assert found.unproven == [
        "that the bytes of mask.png carry nothing else (made by other versions of Pillow or zlib)"
    ]
    remask(released, filters(again))
    assert list(said(audit(released))) == ["mask.png"]
    if first:
        remask(released, ours)
        relist(released, version=2, compression=1)
        assert list(said(audit(released))) == ["mask.png"]


def test_a_file_longer_than_what_is_read(released: Path) -> None:
    """What is beyond is not read, and not hashed: its hash may well be the manifest's."""
    one = images(released)[0]
    most = 6 * 32 * 32 + (1 << 16)
    data = one.read_bytes()[:33] + chunk(b"IDAT", bytes(most))
    one.write_bytes(data[: most + 1] + FACE)
    files = Manifest.read(released).files | {
        one.relative_to(released).as_posix(): hashlib.sha256(data[: most + 1]).hexdigest()
    }
    manifest = replace(Manifest.read(released), files=files)
    (released / "manifest.json").write_bytes(manifest.to_bytes())
    set_times(released)
    assert any(
        "is larger than an image of this size" in what for what in next(iter(said(audit(released)).values()))
    )


def test_every_stream_of_zlib_is_as_zlib_writes() -> None:
    """Levels, strategies without a choice of codes, sizes of one block and of several, noise and nothing."""
    rng = np.random.default_rng(0)
    noise, smooth = rng.integers(0, 256, (30, 30, 3)), rng.integers(0, 4, (30, 30, 3)).cumsum(1)
    large = rng.integers(0, 256, (120, 120, 3))
    for pixels in (noise, smooth, large, noise * 0, noise[:1, :1], noise[:2, :2], smooth.repeat(7, 1)):
        rows = filtered(pixels.astype(np.uint8))
        for level in range(10):
            stream = deflated(rows, level)
            found = take_apart(stream[2:], rows)
            assert (found.faults, found.end) == ([], len(stream) - 6), level
            assert found.plain or level > 1
            assert found.stored or level > 0
