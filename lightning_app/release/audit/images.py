"""The part of an audit that runs in many processes: each released image is read once, and all is seen of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_app.distributed.parent import Bond, bond, end_with_parent
from lightning_app.release.format.canonical import LEVELS, RUNS, Writing, byte_faults, is_written, writing_of
from lightning_app.release.format.each_mask import mask_faults, mask_file
from lightning_app.release.format.manifest import SMALL
from lightning_app.release.format.png import Png, most_bytes, read_png
from lightning_app.release.format.traces import Traces

_CHUNK = 64  # files per message between processes
_EACH = 2048  # files that are worth another process
_FEW = 8  # files that show how all are written
# path in the release, SHA-256 that the manifest gives; of the image's own mask too, where it has one
Listed = tuple[str, str] | tuple[str, str, str]


@dataclass(frozen=True)
class Checks:
    """What the images of one release must be.

    Attributes:
        root: folder of the release.
        size: side of the images in pixels.
        channels: 1 where none may have more, else 3.
        hidden: `[size,size,1]` uint8, 255 where every image must be black, 0 elsewhere; None hides nothing, or every
            image has a mask of its own.
        shown: visible pixels of every image's own mask; None where images have none of their own.
        writing: how they are written; each is encoded again, and its bytes compared.
        traces: what a method without a mask leaves in every image; None where nothing is known of it.
    """

    root: str
    size: int
    channels: int
    hidden: NDArray[np.uint8] | None
    writing: Writing = field(default_factory=lambda: Writing(RUNS))
    traces: Traces | None = None
    shown: int | None = None


@dataclass(frozen=True)
class Faulty:
    """An image with faults.

    Attributes:
        name: its path in the release.
        faults: in words.
        sha256: of its bytes, where it is not the manifest's; else None.
        misfit: it is not written as the release's other images are.
    """

    name: str
    faults: list[str]
    sha256: str | None
    misfit: bool = False


@dataclass(frozen=True)
class Checked:
    """What was found in some files.

    Attributes:
        files: how many were read.
        bytes: their length together.
        faulty: those that have faults.
        unproven: how many have other bytes than they are given here, as another build of zlib may give them.
        channels: most that one of them has; 0 where none can be decoded.
        sharp: how many are sharper than their method leaves any but odd patterns.
    """

    files: int
    bytes: int
    faulty: list[Faulty]
    unproven: int = 0
    channels: int = 0
    sharp: int = 0


def check_files(checks: Checks, listed: Sequence[Listed]) -> Checked:
    """Read, hash, take apart and decode some images, each once.

    Args:
        checks: what they must be.
        listed: path and expected hash of each, and of its own mask.
    """
    length, unproven, most, sharp = 0, 0, 0, 0
    faulty: list[Faulty] = []
    # by channels: bytes are compared many times as fast where none has to be repeated
    hidden = {} if checks.hidden is None else {n: np.repeat(checks.hidden, n, axis=2) for n in (1, 3)}
    for name, expected, *beside in listed:
        if checks.shown is not None:
            own, fault, more = _own_mask(checks, mask_file(name), *beside)
            hidden = {} if own is None else {n: np.repeat(own, n, axis=2) for n in (1, 3)}
            faulty += fault
            length += more
        try:
            data = read_at_most(Path(checks.root, name), checks.size)
        except OSError as error:
            faulty.append(Faulty(name, [f"cannot be read ({error.strerror})"], None))
            continue
        length += len(data)
        digest = hashlib.sha256(data).hexdigest()
        faults = [] if digest == expected else ["its SHA-256 is not the manifest's"]
        png = read_png(data)
        most = most if png.pixels is None else max(most, png.pixels.shape[2])
        # of what is no such PNG, or is cut off, the bytes are others in any case
        written = [] if png.faults or png.pixels is None else byte_faults(data, png.pixels, checks.writing)
        shown, is_sharp = _faults(checks, hidden, png, len(data))
        faults += [*shown, *(written or [])]
        sharp += is_sharp
        unproven += written is None
        if faults:
            faulty.append(Faulty(name, faults, None if digest == expected else digest, bool(written)))
    return Checked(len(listed), length, faulty, unproven, most, sharp)


def _own_mask(checks: Checks, name: str, expected: str) -> tuple[NDArray[np.uint8] | None, list[Faulty], int]:
    """Check the mask of one image: what it hides `[size,size,1]`, 255 there; its faults; and its bytes."""
    assert checks.shown is not None
    try:
        data = read_at_most(Path(checks.root, name), checks.size)
    except OSError as error:
        return None, [Faulty(name, [f"cannot be read ({error.strerror})"], None)], 0
    digest = hashlib.sha256(data).hexdigest()
    faults = [] if digest == expected else ["its SHA-256 is not the manifest's"]
    if len(data) > most_bytes(checks.size):
        faults.append("is larger than a mask of this size can be; the rest of it was not read")
    said, mask = mask_faults(data, checks.size, checks.shown)
    faults += said
    found = [Faulty(name, faults, None if digest == expected else digest)] if faults else []
    return None if mask is None else (1 - mask)[..., None] * np.uint8(255), found, len(data)


def read_at_most(path: Path, size: int) -> bytes:
    """Read an image file, but no more of it than an image of this size can honestly take.

    Args:
        path: the file.
        size: side of the image in pixels.
    """
    with open(path, "rb") as file:
        return file.read(most_bytes(size) + 1)


def read_small(path: Path) -> bytes:
    """Read a small file, but no more of it than such a one has; what is cut off, its hash or form tells.

    Args:
        path: of the file.
    """
    with path.open("rb") as file:
        return file.read(SMALL)


def _faults(
    checks: Checks, hidden: dict[int, NDArray[np.uint8]], png: Png, length: int
) -> tuple[list[str], bool]:
    """Return what is wrong with an image, and whether it is sharp, see `Traces`."""
    pixels, faults = png.pixels, list(png.faults)
    if length > most_bytes(checks.size):
        faults.append("is larger than an image of this size can be; the rest of it was not read")
    if pixels is None:
        return faults, False
    height, width, channels = pixels.shape
    if (height, width) != (checks.size, checks.size):
        return [*faults, f"has {width}×{height} pixels, the manifest says {checks.size}×{checks.size}"], False
    if channels > checks.channels:
        faults.append(f"has {channels} channels, the manifest says {checks.channels}")
    if hidden:
        seen = pixels & hidden[channels]
        if seen.any():
            where = np.argwhere(seen.any(axis=2))
            row, column = where[0].tolist()
            many = "1 hidden pixel is" if len(where) == 1 else f"{len(where)} hidden pixels are"
            faults.append(f"{many} not 0, the first at row {row}, column {column}")
    if checks.traces is None:
        return faults, False
    shown = checks.traces.look(pixels)
    return faults + shown.faults, shown.sharp


def check_images(
    checks: Checks,
    listed: Sequence[Listed],
    workers: int,
    advance: Callable[[int], None],
    level: int | None = None,
    other: bool = False,
) -> Checked:
    """Check all images of a release.

    All are held to one level of compression: were each free to choose its own, the choices would be a message.
    Memory does not grow with the number of images: as many messages are under way as keep the processes busy.

    Args:
        checks: what they must be; `writing` is found out.
        listed: path and expected hash of each.
        workers: processes; 1 works in this one.
        advance: told the number of files done, again and again.
        level: of zlib, as the manifest gives it; None takes the one that gives most of a few images.
        other: another build of zlib may have made them.
    """
    files = _some(checks, listed)
    writing = writing_of(files, other, level)
    found = _check_all(replace(checks, writing=writing), listed, workers, advance)
    if level is not None or writing.level is None:
        return found
    misfits = _readable(checks, [faulty.name for faulty in found.faulty if faulty.misfit][:_CHUNK])
    for at in LEVELS:  # small images come out alike at several levels
        if not any(is_written(*file, at) for file in misfits):
            continue
        if all(is_written(*file, at) for file in files if is_written(*file, writing.level)):
            anew = replace(checks, writing=replace(writing, level=at))
            again = _check_all(anew, listed, workers, lambda done: None)
            if len(again.faulty) < len(found.faulty):
                return again
    return found


def _check_all(
    checks: Checks, listed: Iterable[Listed], workers: int, advance: Callable[[int], None]
) -> Checked:
    rest = iter(listed)
    chunks = iter(lambda: list(islice(rest, _CHUNK)), [])
    files, length, unproven, most, sharp = 0, 0, 0, 0, 0
    faulty: list[Faulty] = []
    for part in _results(checks, chunks, workers):
        files, length, unproven = files + part.files, length + part.bytes, unproven + part.unproven
        faulty += part.faulty
        most, sharp = max(most, part.channels), sharp + part.sharp
        advance(part.files)
    return Checked(files, length, faulty, unproven, most, sharp)


def _some(checks: Checks, listed: Sequence[Listed]) -> list[tuple[bytes, NDArray[np.uint8]]]:
    """Read a few images, spread over the release, that have no other faults."""
    step = max(1, len(listed) // _FEW)
    return _readable(checks, [one[0] for one in listed[::step]][:_FEW])


def _readable(checks: Checks, names: Iterable[str]) -> list[tuple[bytes, NDArray[np.uint8]]]:
    found = []
    for name in names:
        try:
            data = read_at_most(Path(checks.root, name), checks.size)
        except OSError:  # said where it is checked
            continue
        png = read_png(data)
        if png.pixels is not None and not png.faults:
            found.append((data, png.pixels))
    return found


def _results(checks: Checks, chunks: Iterator[list[Listed]], workers: int) -> Iterator[Checked]:
    if workers == 1:
        yield from (check_files(checks, chunk) for chunk in chunks)
        return
    # spawned, not forked: the caller may have threads (torch has); this module needs no torch and starts fast
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start, initargs=(checks, bond())
    ) as pool:
        waiting: list[Future[Checked]] = [pool.submit(_work, chunk) for chunk in islice(chunks, 4 * workers)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(_work, chunk) for chunk in islice(chunks, 1)]


_checks: Checks | None = None  # of this worker process


def _start(checks: Checks, parent: Bond) -> None:
    global _checks
    end_with_parent(parent)
    _checks = checks


def _work(listed: list[Listed]) -> Checked:
    assert _checks is not None, "_start came before"
    return check_files(_checks, listed)


def useful_workers(files: int) -> int:
    """Return how many processes are worth starting for so many files: at most one per CPU."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, files // _EACH))
