"""How a WebP file is coded: with loss, or without.

With loss, every block is predicted from those left of and above it, and what is predicted may be predicted from
again: a pixel leaves traces anywhere to its right and below, however far away. In a JPEG they end with its block.
"""

from __future__ import annotations

import struct

_CHUNK = struct.Struct("<4sI")  # name, bytes of its content
_FRAME = 16  # bytes of an animation's frame before the chunks of its image


def is_lossy_webp(data: bytes) -> bool:
    """Return whether a file is a WebP whose image, or any frame of it, is not known to be coded without loss.

    Args:
        data: the file's bytes. What is no WebP at all is no lossy one either.

    Source: WebP Container Specification: `VP8L` holds an image without loss, `VP8 ` one with loss.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return False
    at, found = 12, set()
    while at + _CHUNK.size <= len(data):
        name, length = _CHUNK.unpack_from(data, at)
        if name in (b"VP8 ", b"VP8L"):
            found.add(name)
        # into a frame, over everything else; contents are padded to an even number of bytes
        at += _CHUNK.size + (_FRAME if name == b"ANMF" else length + length % 2)
    return found != {b"VP8L"}
