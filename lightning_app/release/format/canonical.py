"""The one way to write an image: a released file's bytes are a function of its pixels and the release's zlib level.

A file that holds nothing but its pixels can still carry a face in *how* it holds them: filters, blocks, padding,
matches. So each is encoded again, and the bytes must be the same. Where the release was made with another build of
zlib, what differs is taken apart instead, see `deflate`; that leaves some of zlib's own choices open.
"""

from __future__ import annotations

import io
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_app.core.png import deflated, encode_png, filtered
from lightning_app.release.format.deflate import Stream, take_apart
from lightning_app.release.format.png import data_chunks

LEVELS = (1, *range(2, 10), 0)  # of zlib; the first is what `desensitize` takes unless told otherwise
RUNS = 1  # the level that looks for runs alone: every build of zlib writes the same bytes there
STORED, PLAIN, SEARCHED = range(3)  # forms of a stream, see `Form`
_SIGNATURE, _ROOM = 8, 12  # bytes: of a PNG's signature; of a chunk beside its content
_FRAME = _SIGNATURE + (_ROOM + 13) + _ROOM + _ROOM  # of a file, beside its zlib stream
_WORST = 1.1  # how much longer than ours another build's stream may be
_MORE = 64  # and that many bytes
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Form:
    """What the streams of one release have in common, where their bytes cannot be told.

    Attributes:
        header: zlib's two bytes.
        kind: STORED: nothing is compressed. PLAIN: runs alone, as level 1 does. SEARCHED: other matches too.
    """

    header: bytes
    kind: int


@dataclass(frozen=True)
class Writing:
    """How the files of a release are written.

    Attributes:
        level: of zlib, one for all; None where no level gives any of the files looked at.
        form: what is allowed where bytes differ, because another build of zlib made them; None allows nothing.
    """

    level: int | None
    form: Form | None = None


def as_stored(pixels: Pixels) -> Pixels:
    """Convert `[H,W,1]` or `[H,W,3]` to what is written of it: `[H,W]` where its channels are equal.

    Args:
        pixels: as `read_png` gives them.
    """
    if pixels.shape[2] == 1 or not (pixels[..., 1:] != pixels[..., :1]).any():
        return np.ascontiguousarray(pixels[..., 0])
    return pixels


def writing_of(files: Sequence[tuple[bytes, Pixels]], other: bool, level: int | None = None) -> Writing:
    """Find out how a release is written, by some of its files.

    Args:
        files: bytes and pixels `[H,W,C]` of each.
        other: another build of zlib may have made it.
        level: that the manifest gives; None finds the one that gives most of the files.

    Returns:
        Level and, where `other`, the form of most files; no form where they show that the other build writes
        what this one does: runs alone come out the same.
    """
    votes = dict.fromkeys(LEVELS, 0)
    for at in LEVELS if level is None else (level,):
        votes[at] = sum(is_written(data, pixels, at) for data, pixels in files)
        if votes[at] == len(files):
            break
    best = max(votes, key=lambda at: votes[at]) if level is None else level
    found = best if votes[best] or level is not None else None
    if not other or (found == RUNS and 2 * votes[RUNS] > len(files)):
        return Writing(found)
    if level is not None:  # said, and not left to the files to choose
        return Writing(level, Form(deflated(b"", level)[:2], {0: STORED, RUNS: PLAIN}.get(level, SEARCHED)))
    return Writing(found, _form([one for data, pixels in files if (one := _stream(data, pixels))]))


def is_written(data: bytes, pixels: Pixels, level: int) -> bool:
    """Return whether a file is what `desensitize` writes of its pixels.

    Args:
        data: the file.
        pixels: `[H,W,C]`, what it shows.
        level: of zlib.
    """
    return encode_png(as_stored(pixels), level) == data


def byte_faults(data: bytes, pixels: Pixels, writing: Writing) -> list[str] | None:
    """Return how a file differs from what `desensitize` writes of its pixels.

    Args:
        data: the file.
        pixels: `[H,W,C]`, what it shows.
        writing: how the release's files are written.

    Returns:
        Nothing where the bytes are the same; None where they differ, as another build of zlib may write them.
    """
    if writing.level is not None and is_written(data, pixels, writing.level):
        return []
    faults = _frame_faults(data, pixels)
    if not faults and writing.form is None:
        faults = [f"zlib's level is {level}" for level in LEVELS if is_written(data, pixels, level)][:1]
    faults = faults or _stream_faults(data, pixels, writing)
    if not faults and writing.form is not None:
        return None
    faults = faults or ["other matches or codes"]
    at = "" if writing.level is None else f" (the release has zlib's level {writing.level})"
    return [f"its bytes are not those that `desensitize` writes of its pixels{at}: {', '.join(faults)}"]


def mask_faults(data: bytes, pixels: Pixels, old: bool, other: bool) -> list[str] | None:
    """Return how a mask's file differs from what `save_mask` writes of its pixels.

    Args:
        data: the file.
        pixels: `[H,W,1]`, what it shows.
        old: the release is of the first format, whose mask Pillow wrote.
        other: another build of zlib or Pillow may have made it.

    Returns:
        Nothing where the bytes are the same; None where they differ, as another build of zlib may write them.
    """
    said = byte_faults(data, pixels, Writing(RUNS))
    if not said or not old:
        return said
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(buffer, "PNG")
    ours = buffer.getvalue()
    if data == ours:
        return []
    stream, our_stream = (b"".join(data_chunks(file)) for file in (data, ours))
    try:
        rows = zlib.decompress(our_stream)
        same = zlib.decompress(stream) == rows  # Pillow chooses rows' filters; zlib has no part in it
    except zlib.error:
        return []  # has been said
    frame = len(data_chunks(data)) == 1 and len(data) == _FRAME + len(stream)
    if other and same and frame and stream[:2] == our_stream[:2]:
        found = take_apart(stream[2:], rows)
        if not found.faults and len(stream) <= _WORST * len(our_stream) + _MORE:
            return None
    return said


def _form(streams: Iterable[tuple[bytes, Stream]]) -> Form:
    """Return the form that most files have; a few that are of another one do not change it."""
    found = list(streams)
    header = Counter(header for header, _ in found).most_common(1)[0][0] if found else b"\x78\x01"
    if 2 * sum(not stream.plain for _, stream in found) > len(found):
        return Form(header, SEARCHED)
    return Form(header, PLAIN if any(not stream.stored for _, stream in found) else STORED)


def _stream(data: bytes, pixels: Pixels) -> tuple[bytes, Stream] | None:
    parts = data_chunks(data)
    if len(parts) != 1:
        return None
    return parts[0][:2], take_apart(parts[0][2:], filtered(as_stored(pixels)))


def _frame_faults(data: bytes, pixels: Pixels) -> list[str]:
    """Return what differs beside the zlib stream."""
    parts, stored = data_chunks(data), as_stored(pixels)
    faults = []
    if len(parts) != 1:
        faults.append(f"{len(parts)} IDAT chunks")
    if stored.ndim == 2 and data[25:26] != b"\0":
        faults.append("a grey image stored as RGB")
        return faults  # its rows are others, too
    stream = b"".join(parts)
    try:
        rows = zlib.decompress(stream)
    except zlib.error:
        return [*faults, "a damaged zlib stream"]
    if rows != filtered(stored):
        faults.append("rows with other PNG filters")
    if len(parts) == 1 and len(data) != _FRAME + len(stream):
        faults.append("something beside its chunks")
    return faults


def _stream_faults(data: bytes, pixels: Pixels, writing: Writing) -> list[str]:
    """Return what zlib never writes in the stream of a file whose rows are right, or not in this release."""
    (stream,) = data_chunks(data)
    rows = filtered(as_stored(pixels))
    found = take_apart(stream[2:], rows)
    faults = list(found.faults)
    if found.end != len(stream) - 6 and not faults:
        faults.append("something after its last block")
    level = RUNS if writing.level is None else writing.level
    if stream[:2] != (deflated(b"", level)[:2] if writing.form is None else writing.form.header):
        faults.append("another zlib header than the release's other images")
    if writing.form is None:
        return faults
    kind = writing.form.kind
    if (kind == STORED and not found.stored) or (kind == PLAIN and not found.plain):
        faults.append("another way of compressing than the release's other images")
    levels = {STORED: (0,), PLAIN: (RUNS,), SEARCHED: (2, 9)}[kind]
    if len(stream) > _WORST * max(len(deflated(rows, level)) for level in levels) + _MORE:
        faults.append("more bytes than its pixels take")
    return faults
