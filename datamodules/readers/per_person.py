"""What readers share whose set is a tree with a folder of image files per person."""

from __future__ import annotations

from collections.abc import Iterator

from numpy import int64
from numpy.typing import NDArray

from datamodules.readers.base import FaceReader
from datamodules.readers.decode import stored
from datamodules.readers.index import Names


class FilesPerPerson(FaceReader):
    """A reader of such a tree; a subclass scans it, and tells by `name` where an image lies.

    Attributes:
        _files: names of all files, without their folders.
        _at: `[N]` int64, place in `_files` of each image.
    """

    _files: Names
    _at: NDArray[int64]

    def content(self, index: int) -> bytes:
        """Return the image's file."""
        return stored(self.name(index))

    def stable_name(self, index: int) -> str:
        """Return an image's folder, which is the person's, and file."""
        return f"{self.identities[int(self.labels[index])]}/{self._files[int(self._at[index])]}"

    def stable_names(self) -> Iterator[str]:
        """Yield all stable names in order."""
        names = zip(self.labels.tolist(), self._files.take(self._at.tolist()), strict=True)
        return (f"{self.identities[label]}/{file}" for label, file in names)
