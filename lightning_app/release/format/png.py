"""PNG files taken apart: what a released one may hold, and nothing else."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEAD = struct.Struct(">I4s")  # a chunk: length, name, content, CRC of name and content
_SUM = struct.Struct(">I")
_IHDR = struct.Struct(">IIBBBBB")  # width, height, bits, colour type, compression, filter, interlace
_MODES = {0: ("L", 1), 2: ("RGB", 3)}  # colour type → Pillow's mode, channels
_ALLOWED = (b"IHDR", b"IDAT", b"IEND")
_SUB = 1  # a row's filter
LARGEST = (
    1 << 11
)  # pixels of a side: a larger image is no face, and a few of its bytes may stand for gigabytes


@dataclass
class Png:
    """What a PNG file was found to hold.

    Attributes:
        pixels: `[H,W,C]` uint8, C 1 or 3; None where they cannot be decoded.
        faults: what a released file must not have, in words; empty for a good one.
    """

    pixels: NDArray[np.uint8] | None = None
    faults: list[str] = field(default_factory=list)


def most_bytes(size: int) -> int:
    """Return how many bytes an image file can honestly take: twice those of its pixels.

    Args:
        size: side of the image in pixels.
    """
    return 6 * size * size + (1 << 16)


def read_png(data: bytes) -> Png:
    """Decode a PNG and name all it holds beside its pixels.

    A released file is 8-bit grey or RGB, not interlaced, of the chunks IHDR, IDAT and IEND alone, whose CRCs
    hold; its zlib stream ends with the last row, and the file with IEND. The stream is inflated once, up to
    one byte more than the pixels take, so that neither a bomb nor a surplus goes unseen.

    Args:
        data: the file's bytes.

    Returns:
        Pixels and faults; content of foreign chunks is not repeated in the faults.

    Source: W3C, Portable Network Graphics (Third Edition), sections 5 and 10.
    """
    found = Png()
    if data[:8] != SIGNATURE:
        found.faults.append("is no PNG")
        return found
    header, stream = _chunks(data, found.faults)
    if header is None:
        return found
    width, height, bits, colour, compression, filtering, interlace = header
    if bits != 8 or colour not in _MODES or compression or filtering or interlace:
        found.faults.append(
            f"is not plain 8-bit grey or RGB (bit depth {bits}, colour type {colour}, interlace {interlace})"
        )
        return found
    if not (0 < width <= LARGEST and 0 < height <= LARGEST):
        found.faults.append(f"claims {width}×{height} pixels: not decoded")
        return found
    mode, channels = _MODES[colour]
    rows = _inflate(b"".join(stream), height * (1 + width * channels), found.faults)
    if rows is None:
        return found
    lines = np.frombuffer(rows, np.uint8).reshape(height, 1 + width * channels)
    if (
        lines[:, 0] == _SUB
    ).all():  # as `desensitize` writes them: each byte less that of the pixel to its left
        left = lines[:, 1:].reshape(height, width, channels)
        found.pixels = np.add.accumulate(left, axis=1, dtype=np.uint8)  # modulo 256
        return found
    try:
        # Pillow undoes the rows' filters; stored anew without compression, nothing is inflated twice
        image = Image.frombytes(mode, (width, height), zlib.compress(rows, 0), "zip", (mode, 0))
    except (ValueError, OSError) as error:
        found.faults.append(f"its rows cannot be decoded ({error})")
        return found
    found.pixels = np.asarray(image).reshape(height, width, channels)
    return found


def data_chunks(data: bytes) -> list[bytes]:
    """Return what the IDAT chunks of a PNG hold; together they are a zlib stream.

    Args:
        data: the file's bytes.
    """
    return _chunks(data, [])[1]


def _chunks(data: bytes, faults: list[str]) -> tuple[tuple[int, ...] | None, list[bytes]]:
    """Walk the chunks: the header, if there is one, and the parts of the zlib stream."""
    header: tuple[int, ...] | None = None
    parts: list[bytes] = []
    at, seen = len(SIGNATURE), 0
    while True:
        if at + 12 > len(data):
            faults.append("is cut short: no IEND chunk")
            break
        length, name = _HEAD.unpack_from(data, at)
        end = at + 12 + length
        if end > len(data):
            faults.append(f"is cut short within a chunk {_shown(name)}")
            break
        if _SUM.unpack_from(data, end - 4)[0] != zlib.crc32(data[at + 4 : end - 4]):
            faults.append(f"the CRC of a chunk {_shown(name)} does not hold")
        if name not in _ALLOWED:
            faults.append(
                f"has a chunk {_shown(name)} of {length} bytes: only IHDR, IDAT and IEND may be there"
            )
        elif (name == b"IHDR") != (seen == 0):
            faults.append("its IHDR chunk is not the first, or there are several")
        elif name == b"IHDR" and length == _IHDR.size:
            header = _IHDR.unpack_from(data, at + 8)
        elif name == b"IDAT":
            parts.append(data[at + 8 : end - 4])
        elif length and name == b"IEND":
            faults.append(f"has {length} bytes in its IEND chunk")
        at, seen = end, seen + 1
        if name == b"IEND":
            if at < len(data):
                faults.append(f"has {len(data) - at} bytes after IEND")
            break
    if header is None and not faults:
        faults.append("its IHDR chunk is damaged")
    return header, parts


def _inflate(stream: bytes, needed: int, faults: list[str]) -> bytes | None:
    """Inflate the image data: exactly `needed` bytes, or None and a fault."""
    inflater = zlib.decompressobj()
    try:
        rows = inflater.decompress(stream, needed + 1)
    except zlib.error as error:
        faults.append(f"its image data cannot be inflated ({error})")
        return None
    if len(rows) < needed:
        faults.append(f"its image data ends after {len(rows)} of {needed} bytes")
        return None
    if len(rows) > needed:
        faults.append("has more image data than pixels")
    elif not inflater.eof:
        faults.append("its zlib stream has no end")
    elif inflater.unused_data:
        faults.append(f"has {len(inflater.unused_data)} bytes after the end of its zlib stream")
    return rows[:needed]


def _shown(name: bytes) -> str:
    return name.decode("ascii") if name.isalpha() else repr(name)
