"""Where the images of a RecordIO file stand and whose they are, found once."""

from __future__ import annotations

import logging
import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.readers.index import Arrays, Scan
from datamodules.readers.record_file import HEADER, RecordError, RecordFile, is_own, unpack

_log = logging.getLogger(__name__)
_LARGEST = 1 << 53


class _BrokenIndex(RecordError):
    """The index is none: whoever made it did so of another file, or in another form."""


class _CutIndex(_BrokenIndex):
    """The index leads to no record, and the file is whole."""

    advice = ": fetch the index again, or remove it: the file is looked through then"


class _Fewer(RecordError):
    """There are fewer images than the first record promises."""


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
            raise ValueError(f"path={self.path}: {error}{error.advice}") from error
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
                file.record(own, HEADER.size)  # of an identity, which is looked at later
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
            raise _CutIndex(
                f"its index {self._idx} is cut off or of another file ({error}), and the file itself is whole"
            ) from error

    def _label(self, file: RecordFile, offset: int) -> int:
        head = file.record(offset, HEADER.size + 4)
        if len(head) < HEADER.size + 4:
            raise RecordError(f"the record at byte {offset} holds no image")
        flag, label, _, _ = HEADER.unpack_from(head)
        if flag:
            (label,) = struct.unpack_from("<f", head, HEADER.size)
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
        holds = np.array([not is_own(file, at) for at in offsets.tolist()], bool)
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
