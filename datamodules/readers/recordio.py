"""InsightFace's training sets (`train.rec` and `train.idx`), read without MXNet."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.readers.bad_images import BadImage
from datamodules.readers.base import FaceReader, OnBadImage, Pixels
from datamodules.readers.decode import Crop, check_geometry, decode
from datamodules.readers.folder import check_counts, select
from datamodules.readers.people import read_people
from datamodules.readers.record_file import RecordError, RecordFile, unpack
from datamodules.readers.record_scan import RecordScan

_log = logging.getLogger(__name__)


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
