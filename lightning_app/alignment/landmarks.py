"""Five landmarks of every image, read from a text file."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from lightning_app.alignment.similarity import Points
from lightning_app.core.csv_text import unescaped
from lightning_app.core.text_file import composed, text_of

Order = Literal["xyxy", "xxyy"]
_NUMBERS = 10
_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
)  # of image files, in whichever case a list or a camera writes them
_ENTRY = "a path and 10 numbers (x, y of left eye, right eye, nose, left and right corner of the mouth)"


class LandmarkFile:
    """Landmarks by image, as published lists have them; 5 million images take about a gigabyte.

    One image per line: its path relative to the set's folder, then x, y of the eye on the left of the image,
    the eye on the right, the tip of the nose, the left and the right corner of the mouth, in pixels, the
    first pixel's centre at 0. Separated by commas (quotes allowed), tabs or blanks. An integer between path
    and numbers (CASIA-WebFace's label) is passed over, and so are a first line that holds a count alone and a
    line of column names (CelebA, VGGFace2, any CSV). Paths may lack their suffix (VGGFace2).

    Args:
        path: the file.
        order: `xxyy` where the five x come before the five y.
        argument: what the user calls the file, for messages.

    Attributes:
        sha256: of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line is none of the above; names the line.
    """

    def __init__(
        self, path: str | os.PathLike[str], order: Order = "xyxy", argument: str = "landmarks"
    ) -> None:
        self.path, self.argument = Path(path), argument
        if not self.path.is_file():
            raise FileNotFoundError(f"{argument}: {path} is no file; give a list with {_ENTRY} on each line")
        content = self.path.read_bytes()
        self.sha256 = hashlib.sha256(content).hexdigest()
        text = text_of(content, f"{argument}: {path}")
        self._rows: dict[str, int] = {}
        self._twice: set[str] = set()
        values: list[float] = []
        for name, numbers in self._entries(text):
            key = _key(name)
            row = self._rows.setdefault(key, len(values) // _NUMBERS)
            if row == len(values) // _NUMBERS:
                values.extend(numbers)
            elif values[row * _NUMBERS : (row + 1) * _NUMBERS] != numbers:
                self._twice.add(key)
        if not self._rows:
            raise ValueError(f"{argument}: {path} has no landmarks; give a list with {_ENTRY} on each line")
        shape = (-1, 2, 5) if order == "xxyy" else (-1, 5, 2)
        points = np.array(values, np.float64).reshape(shape)
        self._points = points.transpose(0, 2, 1) if order == "xxyy" else points

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def names(self) -> list[str]:
        """Paths in the file, each once, in its order."""
        return list(self._rows)

    def find(self, file: str) -> tuple[str, Points] | None:
        """Find an image, by its path or by its path without the suffix.

        Args:
            file: its path in the set, with `/`.

        Returns:
            The name it has in the file, and its landmarks `[5,2]`; None where it is not in the file.
        """
        for key in (_key(file), _key(str(PurePosixPath(file).with_suffix("")))):
            if key in self._rows:
                return key, self._points[self._rows[key]]
        return None

    def is_ambiguous(self, key: str) -> bool:
        """Return whether the file gives an image two different sets of landmarks.

        Args:
            key: its name in the file, see `find`.
        """
        return key in self._twice

    def _entries(self, text: str) -> Iterator[tuple[str, list[float]]]:
        """Yield (path, ten numbers) of each line."""
        started = False
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            fields = _fields(line)
            numbers = _numbers(fields)
            if numbers is not None:
                started = True
                yield unescaped(fields[0]), numbers  # as `review.csv` has it
            elif started or not _is_head(fields):
                raise ValueError(
                    f"{self.argument}: line {number} of {self.path} is {line.strip()[:60]!r}, not {_ENTRY}"
                )


def _fields(line: str) -> list[str]:
    if '"' in line:  # slower, and needed only where a name has a comma
        try:
            return [field.strip() for field in next(csv.reader([line], skipinitialspace=True))]
        except csv.Error:  # a quote that never ends, or a field longer than any path
            return []
    for separator in (",", "\t"):
        if separator in line:
            return [field.strip() for field in line.split(separator)]
    return line.split()


def _numbers(fields: Sequence[str]) -> list[float] | None:
    """Take the ten numbers of a line; None where it has not just these after the path, and a label."""
    if len(fields) == _NUMBERS + 2 and fields[1].lstrip("-").isdigit():
        fields = [fields[0], *fields[2:]]
    if len(fields) != _NUMBERS + 1 or not fields[0]:
        return None
    try:
        numbers = [float(field) for field in fields[1:]]
    except ValueError:
        return None
    return numbers if bool(np.isfinite(numbers).all()) else None


def _is_head(fields: Sequence[str]) -> bool:
    """Return whether a line is CelebA's count or names of columns, and not a line that is wrong."""
    if len(fields) == 1:
        return fields[0].isdigit()
    return len(fields) >= _NUMBERS and not any(_is_number(field) for field in fields)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _key(name: str) -> str:
    path = PurePosixPath(composed(name).replace("\\", "/"))
    return str(path.with_suffix(path.suffix.lower())) if path.suffix.lower() in _SUFFIXES else str(path)
