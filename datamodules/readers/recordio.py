"""InsightFace's training sets (`train.rec` and `train.idx`), read without MXNet.

RecordIO as dmlc-core's `recordio.h` frames it: per part a magic number, a word of a 3-bit flag and a 29-bit
length, the payload, padding to four bytes. A payload that holds the magic number at a multiple of four bytes
is cut there into parts (flags 1, 2, 3) and the magic left out. The payload of an image is MXNet's `IRHeader`
(flag, label, id, id2), `flag` float labels where flag > 0, then the encoded image.
"""

from __future__ import annotations

import logging
import os
import struct
import warnings
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.readers.bad_images import BadImage
from datamodules.readers.base import FaceReader, OnBadImage, Pixels
from datamodules.readers.decode import Crop, check_geometry, decode
from datamodules.readers.folder import check_counts, select
from datamodules.readers.index import Arrays, Scan
from datamodules.readers.people import read_people

_log = logging.getLogger(__name__)
_MAGIC = struct.pack("<I", 0xCED7230A)
_FRAME = struct.Struct("<4sI")
_HEADER = struct.Struct("<IfQQ")
_LENGTH = (1 << 29) - 1
_LARGEST = 1 << 53


class RecordIOFaces(FaceReader):
    """Read InsightFace's RecordIO: MS1M, Glint360K, CASIA-WebFace and others as it distributes them.

    Classes are the labels in the file, in the order of their numbers, named by them.

    Args:
        path: the `.rec` file, or a folder with one in it (`train.rec` where there are several). An `.idx`
            file beside it is used where there is one.
        people: file with one label per line; only these are taken.
        min_images: leave out identities with fewer images.
        max_images: take only the first so many images of each identity, in the file's order.
        crop: box (left, top, right, bottom) in pixels of the images, or the side of a central square; by
            default the whole image.
        size: side of the images handed out, in pixels.
        on_bad_image: 'replace' an image that cannot be decoded by the next good one of its identity, or
            'error'.
        cache_index: keep the scan of the labels between runs, in `$XDG_CACHE_HOME/faceveil`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not RecordIO, truncated, fewer images than its first record promises, or fewer than two
            identities left. Records beyond those it promises, and ones without an image, are told of and left out;
            an `.idx` that names fewer than the file has is told of, and left aside.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        people: str | os.PathLike[str] | None = None,
        min_images: int = 1,
        max_images: int | None = None,
        crop: Crop = None,
        size: int = 112,
        on_bad_image: OnBadImage = "replace",
        cache_index: bool = True,
    ) -> None:
        check_geometry(crop, size)
        check_counts(min_images, max_images)
        self.path, self.crop, self.size, self.on_bad_image = Path(path), crop, size, on_bad_image
        self.people, self.min_images, self.max_images = people, min_images, max_images
        self.cache_index = cache_index
        self._file: RecordFile | None = None

    def scan(self) -> None:
        """Read the labels, from the cache where the file has not changed."""
        self.path = find_record(self.path)
        scan = RecordScan(self.path).get(self.cache_index)
        names = [str(label) for label in scan["classes"].tolist()]
        among = np.ones(len(names), bool)
        if self.people is not None:
            among = np.isin(names, read_people(self.people, set(names), self.path))
        self.identities, self.labels, at = select(
            names, scan["counts"], among, self.min_images, self.max_images, str(self.path)
        )
        self._offsets: NDArray[np.int64] = scan["offsets"][at]

    def read(self, index: int) -> Pixels:
        """Decode one image, see `FaceReader.read`."""
        data, name = self.encoded(index), self.name(index)
        return decode(data, self.crop, self.size, name, self.strict, self.allow_lossy_webp)

    def encoded(self, index: int) -> bytes:
        """Return the bytes of an image, as its record holds them, see `FaceReader.encoded`."""
        if self._file is None:
            self._file = RecordFile(self.path)
        try:
            _, data = unpack(self._file.record(int(self._offsets[index])))
        except RecordError as error:
            raise BadImage(f"{self.name(index)}: {error}") from error
        return data

    def content(self, index: int) -> bytes:
        """Return the record."""
        if self._file is None:
            self._file = RecordFile(self.path)
        try:
            return self._file.record(int(self._offsets[index]))
        except RecordError:
            return b""

    def name(self, index: int) -> str:
        """Return the file, the record's place in it and its identity."""
        label = self.identities[int(self.labels[index])]
        return f"{self.path}[identity {label}, byte {int(self._offsets[index])}]"

    def file(self, index: int) -> str:
        """Return the path of the file."""
        return str(self.path)

    def stable_name(self, index: int) -> str:
        """Return the image's identity and its place in the file."""
        return f"{self.identities[int(self.labels[index])]}/{int(self._offsets[index])}"

    def stable_names(self) -> Iterator[str]:
        """Yield all stable names in order."""
        places = zip(self.labels.tolist(), self._offsets.tolist(), strict=True)
        return (f"{self.identities[label]}/{offset}" for label, offset in places)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}  # a spawned worker opens the file itself


class RecordError(ValueError):
    """A record that is not what the format says."""


class _BrokenIndex(RecordError):
    """The index is none: whoever made it did so of another file, or in another form."""


class _Fewer(RecordError):
    """There are fewer images than the first record promises."""


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
    if len(record) < _HEADER.size:
        raise RecordError(f"a record of {len(record)} bytes has no header")
    flag, label, _, _ = _HEADER.unpack_from(record)
    stop = _HEADER.size + 4 * flag
    if flag == 0:
        return [label], record[stop:]
    if len(record) < stop:
        raise RecordError(f"a record of {len(record)} bytes has no {flag} labels")
    return list(struct.unpack_from(f"<{flag}f", record, _HEADER.size)), record[stop:]


def _is_own(file: RecordFile, offset: int) -> bool:
    """Return whether a record holds labels and no image, as InsightFace's of an identity does."""
    flag, length = file.part(offset)
    if flag != 0 or length > _HEADER.size + 4 * 16 or length < _HEADER.size:  # an image takes more
        return False
    labels, image = unpack(file.record(offset))
    return len(labels) >= 2 and not image


def find_record(path: str | os.PathLike[str]) -> Path:
    """Find the `.rec` file a user means.

    Raises:
        FileNotFoundError: there is none, or several and none is `train.rec`.
    """
    given = Path(path)
    if given.is_file():
        return given
    found = sorted(given.glob("*.rec")) if given.is_dir() else []
    if len(found) > 1:
        found = [file for file in found if file.name == "train.rec"] or found
    if len(found) != 1:
        what = f"{len(found)} .rec files, none of them train.rec" if found else "no such .rec file"
        raise FileNotFoundError(
            f"path={path}: {what} (looked for InsightFace's train.rec and train.idx); give the "
            "reader another `path`"
        )
    return found[0]


class RecordScan(Scan):
    """Where the images of a RecordIO file stand and whose they are.

    Arrays: `classes` int64, the labels in order; `counts` int64, images of each; `offsets` int64 `[N]` of the
    records, label after label; `stamp` int64, length and modification time of both files.
    """

    kind = "recordio"

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._idx = self.path.with_suffix(".idx")

    def is_current(self, kept: Arrays) -> bool:
        """Compare length and modification time of the files."""
        return np.array_equal(self._stamp(), kept["stamp"])

    def _stamp(self) -> NDArray[np.int64]:
        stats = [path.stat() for path in (self.path, self._idx) if path.exists()]
        return np.array([(stat.st_size, stat.st_mtime_ns) for stat in stats], np.int64)

    def make(self, kept: Arrays | None) -> Arrays:
        """Read the label of every record."""
        file = RecordFile(self.path)
        try:
            keys, offsets, identities, labels = self._labelled(file)
            self._compare(file, keys, labels, identities)
        except RecordError as error:
            again = "" if "fetch" in str(error) else ": fetch the file again"
            raise ValueError(f"path={self.path}: {error}{again}") from error
        finally:
            file.close()
        order = np.argsort(labels, kind="stable")
        classes, counts = np.unique(labels, return_counts=True)
        return {
            "classes": classes,
            "counts": counts.astype(np.int64),
            "offsets": offsets[order],
            "stamp": self._stamp(),
        }

    def _labelled(self, file: RecordFile) -> tuple[NDArray[np.int64], ...]:
        """Find the images and their labels; where there is no record at a place, say whose fault it is."""

        def labels(found: tuple[NDArray[np.int64], ...]) -> tuple[NDArray[np.int64], ...]:
            at = found[1].tolist()
            for own in found[2].tolist():
                file.record(own, _HEADER.size)  # of an identity, which is looked at later
            return *found, np.fromiter((self._label(file, offset) for offset in at), np.int64, len(at))

        try:
            return labels(self._images(file))
        except RecordError as error:
            if isinstance(error, _BrokenIndex) or not self._idx.exists():
                raise
            try:
                labels(self._told_apart(file, None, *_numbered(file.walk())))
            except RecordError:
                raise error from None  # the file itself is broken
            raise _BrokenIndex(
                f"its index {self._idx} is cut off or of another file ({error}), and the file itself is whole: fetch "
                "the index again, or remove it: the file is looked through then"
            ) from error

    def _label(self, file: RecordFile, offset: int) -> int:
        head = file.record(offset, _HEADER.size + 4)
        if len(head) < _HEADER.size + 4:
            raise RecordError(f"the record at byte {offset} holds no image")
        flag, label, _, _ = _HEADER.unpack_from(head)
        if flag:
            (label,) = struct.unpack_from("<f", head, _HEADER.size)
        if not label.is_integer() or abs(label) > _LARGEST:
            raise RecordError(f"the record at byte {offset} has the label {label}, which is no class")
        return int(label)

    def _images(self, file: RecordFile) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Find the image records: their keys and offsets, without InsightFace's own, and the identities' offsets."""
        if not self._idx.exists():
            return self._told_apart(file, None, *_numbered(file.walk()))
        try:
            return self._told_apart(file, self._idx, *_read_idx(self._idx))
        except _Fewer as fewer:
            found = self._told_apart(file, None, *_numbered(file.walk()))
            _log.warning(
                "path=%s: %s; they were looked for in the file itself, and are there.", self.path, fewer
            )
            return found

    def _told_apart(
        self, file: RecordFile, idx: Path | None, keys: NDArray[np.int64], offsets: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        if not len(offsets):
            raise RecordError("has no records")
        identities = np.empty(0, np.int64)
        if keys[0] == 0:
            labels, image = unpack(file.record(int(offsets[0])))
            # InsightFace's record 0 holds no image: images have the keys 1 … label[0] − 1, the identities' own
            # records label[0] … label[1] − 1
            if not image and len(labels) >= 2:
                if any(not edge.is_integer() or abs(edge) > _LARGEST for edge in labels[:2]):
                    raise RecordError(f"its first record gives {labels[0]} as the number of its images")
                images = (keys > 0) & (keys < int(labels[0]))
                identities = offsets[(keys >= int(labels[0])) & (keys < int(labels[1]))]
                if (there := int(images.sum())) != int(labels[0]) - 1:
                    where = "there are" if idx is None else f"its index {idx} names"
                    raise _Fewer(f"its first record promises {int(labels[0]) - 1} images, {where} {there}")
                if more := int((keys >= max(labels[:2])).sum()):
                    _log.warning(
                        "path=%s: its first record promises %d images; %d records more are left out.",
                        self.path, there, more,
                    )  # fmt: skip
                keys, offsets = keys[images], offsets[images]
        return self._with_image(file, keys, offsets, identities)

    def _with_image(
        self,
        file: RecordFile,
        keys: NDArray[np.int64],
        offsets: NDArray[np.int64],
        identities: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Leave out InsightFace's own records, of two labels and no image, where no record 0 says which they are."""
        holds = np.array([not _is_own(file, at) for at in offsets.tolist()], bool)
        if not holds.all():
            _log.warning(
                "path=%s: no record 0 says which of its %d records are images; %d that hold none are left out.",
                self.path, len(offsets), (~holds).sum(),
            )  # fmt: skip
        return keys[holds], offsets[holds], identities

    def _compare(
        self,
        file: RecordFile,
        keys: NDArray[np.int64],
        labels: NDArray[np.int64],
        identities: NDArray[np.int64],
    ) -> None:
        """Warn where the images that an identity's record names have several labels, or share one with another's."""
        order = np.argsort(keys, kind="stable")
        keys, labels = keys[order], labels[order]
        seen: dict[int, int] = {}
        mixed = parted = 0
        for at in identities.tolist():
            span, _ = unpack(file.record(at))
            edges = [int(edge) for edge in span[:2] if edge.is_integer() and abs(edge) <= _LARGEST]
            first, last = np.searchsorted(keys, edges) if len(edges) == 2 else (0, 0)
            own = labels[first:last]
            if len(own) == 0:
                continue
            mixed += bool((own != own[0]).any())
            parted += seen.setdefault(int(own[0]), at) != at
        if mixed or parted:
            _log.warning(
                "path=%s: the labels of its images are not those of its identities' records: %d of %d identities have "
                "images of several labels, %d share one with another. The images' labels are taken.",
                self.path, mixed, len(identities), parted,
            )  # fmt: skip


def _numbered(offsets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.arange(len(offsets)), offsets


def _read_idx(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read an index of lines 'key<TAB>offset', sorted by key."""
    if not path.is_file():
        raise _BrokenIndex(f"its index {path} is no file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a file without lines, which is told below
            table = np.loadtxt(path, dtype=np.int64, ndmin=2, encoding="utf-8-sig")
    except (ValueError, OverflowError) as error:
        raise _BrokenIndex(
            f"its index {path} is broken (lines of key and offset, whole numbers, are needed)"
        ) from error
    if table.shape[1:] != (2,):
        raise _BrokenIndex(f"its index {path} is broken (lines of key and offset are needed)")
    for column, what in ((0, "key"), (1, "record at byte")):
        values, counts = np.unique(table[:, column], return_counts=True)
        if (counts > 1).any():
            twice = int(values[counts > 1][0])
            raise _BrokenIndex(f"its index {path} is broken (it names the {what} {twice} more than once)")
        if len(values) and values[0] < 0:
            raise _BrokenIndex(f"its index {path} is broken (it names the {what} {int(values[0])})")
    table = table[np.argsort(table[:, 0], kind="stable")]
    return table[:, 0], table[:, 1]
