"""RecordIO, the container: frames, records in parts, labels before an image.

As dmlc-core's `recordio.h` frames it: per part a magic number, a word of a 3-bit flag and a 29-bit length, the payload,
padding to four bytes. A payload that holds the magic number at a multiple of four bytes is cut there into parts (flags
1, 2, 3) and the magic left out. The payload of an image is MXNet's `IRHeader` (flag, label, id, id2), `flag` float
labels where flag > 0, then the encoded image.
"""

from __future__ import annotations

import os
import struct
from array import array
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_MAGIC = struct.pack("<I", 0xCED7230A)
_FRAME = struct.Struct("<4sI")
HEADER = struct.Struct("<IfQQ")
_LENGTH = (1 << 29) - 1


class RecordError(ValueError):
    """A record that is not what the format says.

    Attributes:
        advice: what to do, behind the message.
    """

    advice = ": fetch the file again"


class RecordFile:
    """A RecordIO file, read by position only, so that forked workers may share it."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115, held as long as the reader
        self.length = os.fstat(self._file.fileno()).st_size

    def part(self, offset: int) -> tuple[int, int]:
        """Read the frame at `offset`: its flag and the length of its payload.

        Raises:
            RecordError: no frame, or the file ends before its payload does.
        """
        if (
            offset < 0 or offset % 4
        ):  # the system would refuse it, or find in a payload what looks like a frame
            raise RecordError(f"no record at byte {offset}: records begin at multiples of 4, from 0 on")
        if offset > self.length:
            raise RecordError(f"truncated: {self.length} bytes, no record at byte {offset}")
        frame = os.pread(self._file.fileno(), _FRAME.size, offset)
        if len(frame) < _FRAME.size:
            raise RecordError(f"truncated: {self.length} bytes, no record at byte {offset}")
        magic, word = _FRAME.unpack(frame)
        if magic != _MAGIC:
            raise RecordError(f"no RecordIO record at byte {offset}")
        flag, length = word >> 29, word & _LENGTH
        if offset + _FRAME.size + length > self.length:
            raise RecordError(f"truncated: {self.length} bytes, the record at byte {offset} needs more")
        return flag, length

    def record(self, offset: int, most: int | None = None) -> bytes:
        """Read the record at `offset`, its parts joined.

        Args:
            offset: of its first frame, in bytes.
            most: give only the first so many bytes.

        Raises:
            RecordError: the frames are not those of a record.
        """
        flag, length = self.part(offset)
        if flag not in (0, 1):
            raise RecordError(f"the record at byte {offset} starts in its middle")
        if flag == 0 or (most is not None and most <= length):
            return self._payload(offset, length if most is None else min(most, length))
        parts = [self._payload(offset, length)]
        while flag != 3 and (most is None or len(_MAGIC.join(parts)) < most):
            offset = _following(offset, length)
            flag, length = self.part(offset)
            if flag not in (2, 3):
                raise RecordError(f"the record before byte {offset} has no end")
            parts.append(self._payload(offset, length))
        return _MAGIC.join(parts)[:most]

    def _payload(self, offset: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, offset + _FRAME.size)

    def walk(self) -> NDArray[np.int64]:
        """List the offsets of all records by following the frames.

        Raises:
            RecordError: the frames do not lead to the end of the file.
        """
        offsets, offset = array("q"), 0
        while offset < self.length:
            flag, length = self.part(offset)
            if flag in (0, 1):
                offsets.append(offset)
            offset = _following(offset, length)
        return np.array(offsets, np.int64)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _following(offset: int, length: int) -> int:
    return offset + _FRAME.size + (length + 3) // 4 * 4


def unpack(record: bytes) -> tuple[list[float], bytes]:
    """Split a record into its labels and the encoded image.

    Raises:
        RecordError: shorter than its header says.
    """
    if len(record) < HEADER.size:
        raise RecordError(f"a record of {len(record)} bytes has no header")
    flag, label, _, _ = HEADER.unpack_from(record)
    stop = HEADER.size + 4 * flag
    if flag == 0:
        return [label], record[stop:]
    if len(record) < stop:
        raise RecordError(f"a record of {len(record)} bytes has no {flag} labels")
    return list(struct.unpack_from(f"<{flag}f", record, HEADER.size)), record[stop:]


def is_own(file: RecordFile, offset: int) -> bool:
    """Return whether a record holds labels and no image, as InsightFace's of an identity does."""
    flag, length = file.part(offset)
    if flag != 0 or length > HEADER.size + 4 * 16 or length < HEADER.size:  # an image takes more
        return False
    labels, image = unpack(file.record(offset))
    return len(labels) >= 2 and not image
