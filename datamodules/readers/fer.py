"""FER-2013 and FER+: emotions, in the layouts in which people have them."""

from __future__ import annotations

import ast
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from datamodules.readers.base import FaceReader, OnBadImage, Pixels
from datamodules.readers.class_folders import SplitName, check_split
from datamodules.readers.decode import Crop, check_geometry, decode, fit, read_bytes, stored
from datamodules.readers.folder import read_within
from datamodules.readers.lists import classes_of, find_file, rows_of, whole_number
from datamodules.readers.votes import COLUMNS, EMOTIONS, majority
from lightning_app.core.files import given_folder

log = logging.getLogger("faceveil")

PIXELS = ("fer2013.csv", "icml_face_data.csv")
VOTES = "fer2013new.csv"
# FER-2013's numbers stand for these, under the names of its own description
FER2013 = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
THREE = {"fer+": ("happiness", "neutral", "surprise"), "fer2013": ("happy", "neutral", "surprise")}
_NAMES = {"fer+": EMOTIONS, "fer2013": FER2013}
_USAGE = {"train": "Training", "validation": "PublicTest", "test": "PrivateTest"}
_FOLDERS = {"train": "FER2013Train", "validation": "FER2013Valid", "test": "FER2013Test"}
_SIDE = 48  # pixels
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Found:
    emotion: str
    row: int  # in the CSV, from 0
    pixels: bytes | None = None
    file: str = ""
    box: Box | None = None


class FERFaces(FaceReader):
    """Read one split of FER-2013 or FER+: `fer2013.csv` or `icml_face_data.csv`, or FER+'s folders.

    With `labels: fer+`, ten people's votes decide (`majority`): from `fer2013new.csv` beside the CSV of pixels, row by
    row; or from `FER2013Train/label.csv`, `FER2013Valid/label.csv`, `FER2013Test/label.csv` beside the images. Images
    without a majority, of no face or without a name in FER+ are left out. With `labels: fer2013` the number in the CSV
    of pixels decides. Classes are sorted by name, whatever their number was. Nobody is known: `identity` is −1.

    Args:
        root: folder with these files (or with a folder `fer2013` that has them).
        labels: which labels decide, `fer+` or `fer2013`. They disagree on many images.
        classes: `all` (eight of FER+, seven of FER-2013), `three` (happiness, neutral, surprise; of FER-2013 happy,
            neutral, surprise), or a list of names. Images of other classes are left out.
        split: train, validation (`PublicTest`) or test (`PrivateTest`).
        crop: box (left, top, right, bottom) in pixels, or the side of a central square; by default the whole image, or
            the box that label.csv gives.
        size: side of the images handed out, in pixels; those of the set have 48.
        on_bad_image: 'replace' an image that cannot be decoded by the next good one of its class, or 'error'.

    Raises:
        FileNotFoundError: the files are not there.
        ValueError: they do not go together, or have no such classes; the message names the line.
    """

    classes_are_people = False

    def __init__(
        self,
        root: str | os.PathLike[str],
        labels: Literal["fer+", "fer2013"] = "fer+",
        classes: Literal["all", "three"] | list[str] = "all",
        split: SplitName = "train",
        crop: Crop = None,
        size: int = 48,
        on_bad_image: OnBadImage = "replace",
    ) -> None:
        check_geometry(crop, size)
        check_split(split)
        if labels not in _NAMES:
            raise ValueError(f"labels={labels!r}: give fer+ or fer2013")
        self.root, self.kind, self.split = given_folder(root), labels, split
        self.crop, self.size, self.on_bad_image = crop, size, on_bad_image
        self.wanted = _wanted(classes, labels)

    def scan(self) -> None:
        """Read the lists, and the pixels where they stand in one."""
        if not self.root.is_dir():
            raise FileNotFoundError(f"root={self.root}: no such folder (looked for {' or '.join(PIXELS)})")
        self._top = os.path.realpath(self.root)
        folders = (self.root, self.root / "fer2013")
        csv, votes = find_file(folders, PIXELS), find_file(folders, [VOTES])
        labels = self.root / _FOLDERS[self.split] / "label.csv"
        if csv is not None and (votes is not None or self.kind == "fer2013"):
            found, self._source = self._from_csv(csv, votes if self.kind == "fer+" else None), str(csv)
        elif labels.is_file() and self.kind == "fer+":
            found, self._source = self._from_folder(labels), str(labels.parent)
        else:
            needed = f"{' or '.join(PIXELS)}" + (f", with {VOTES} beside it" if self.kind == "fer+" else "")
            also = f", or {_FOLDERS[self.split]}/label.csv with its images" if self.kind == "fer+" else ""
            raise FileNotFoundError(f"root={self.root}: labels={self.kind} needs {needed}{also}")
        kept = [one for one in found if one.emotion in self.wanted]
        if not kept:
            raise ValueError(f"{self._source}: no images of {', '.join(self.wanted)} for split={self.split}")
        self.identities, self.labels = classes_of([one.emotion for one in kept])
        if none := sorted({*self.wanted} - {*self.identities}):
            log.warning("%s: no images of %s (split %s).", self._source, ", ".join(none), self.split)
        self._rows = np.array([one.row for one in kept], np.int64)
        self._files = [one.file for one in kept]
        self._boxes = [one.box for one in kept]
        parts = [np.frombuffer(one.pixels, np.uint8) for one in kept if one.pixels is not None]
        self._pixels = np.stack(parts).reshape(-1, _SIDE, _SIDE) if parts else None

    def _from_csv(self, pixels: Path, votes: Path | None) -> list[_Found]:
        rows = _columns(pixels, ("emotion", "usage", "pixels") if votes is None else ("usage", "pixels"))
        seen = (
            iter(()) if votes is None else _columns(votes, ("usage", "image name", *map(str.lower, COLUMNS)))
        )
        found = []
        for row, (image, said) in enumerate(zip_longest(rows, seen)):
            if image is None or (votes is not None and said is None):
                more, less = (votes, pixels) if image is None else (pixels, votes)
                raise ValueError(f"{more} has more rows than {less}, {row}: they are not of one set")
            line, cells = image
            if said is not None and said[1]["usage"] != cells["usage"]:
                raise ValueError(
                    f"{votes}, line {said[0]}: usage {said[1]['usage'][:20]!r}, and {cells['usage'][:20]!r} in "
                    f"{pixels}, line {line}: their rows are not in one order"
                )
            if cells["usage"] != _USAGE[self.split]:
                continue
            emotion = _number(cells, f"{pixels}, line {line}") if said is None else _voted(said, votes)
            if emotion in self.wanted:
                found.append(_Found(emotion, row, _bytes(cells["pixels"], f"{pixels}, line {line}")))
        return found

    def _from_folder(self, labels: Path) -> list[_Found]:
        found = []
        for row, (line, cells) in enumerate(rows_of(labels)):
            where = f"{labels}, line {line}"
            if len(cells) != 2 + len(COLUMNS):
                raise ValueError(f"{where}: {len(cells)} cells; a name, a box and ten votes are needed")
            emotion = majority([whole_number(cell, where) for cell in cells[2:]])
            if cells[0] and emotion is not None:
                if os.path.basename(cells[0]) != cells[0]:
                    raise ValueError(f"{where}: {cells[0][:80]!r} is no plain file name")
                found.append(
                    _Found(emotion, row, file=str(labels.parent / cells[0]), box=_box(cells[1], where))
                )
        return found

    def read(self, index: int) -> Pixels:
        """Decode one image, see `FaceReader.read`."""
        _ = self.labels
        if self._pixels is not None:
            return fit(Image.fromarray(self._pixels[index]), self.crop, self.size, self.name(index))
        path = self._files[index]
        crop = self._boxes[index] if self.crop is None else self.crop
        return decode(self._read(path), crop, self.size, path, self.strict, self.allow_lossy_webp)

    def encoded(self, index: int) -> bytes | None:
        """Return the bytes of an image's file; None where it stands in a CSV."""
        _ = self.labels
        return None if self._pixels is not None else self._read(self._files[index])

    def _read(self, path: str) -> bytes:
        return read_within(path, self._top) if self.strict else read_bytes(path)

    def name(self, index: int) -> str:
        """Return an image's path, or its place in the CSV."""
        _ = self.labels
        return self._files[index] or f"{self._source}, row {int(self._rows[index]) + 1}"

    def stable_name(self, index: int) -> str:
        """Return an image's name in FER+, such as fer0000017, which it has in every layout."""
        _ = self.labels
        file = self._files[index]
        return Path(file).stem if file else f"fer{int(self._rows[index]):07d}"

    def content(self, index: int) -> bytes:
        """Return an image as it is stored."""
        _ = self.labels
        return stored(self._files[index]) if self._pixels is None else self._pixels[index].tobytes()


def _wanted(classes: str | Sequence[str], kind: str) -> tuple[str, ...]:
    if classes == "all":
        return _NAMES[kind]
    if classes == "three":
        return THREE[kind]
    unknown = (
        [classes] if isinstance(classes, str) else [name for name in classes if name not in _NAMES[kind]]
    )
    if unknown or len(set(classes)) < max(2, len(classes)):
        raise ValueError(
            f"classes={classes}: give all, three, or two or more of {', '.join(_NAMES[kind])} (labels={kind})"
        )
    return tuple(classes)


def _columns(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    rows = rows_of(path)
    line, header = next(rows, (1, []))
    names = [name.lower() for name in header]
    if missing := [name for name in needed if name not in names]:
        raise ValueError(
            f"{path}, line {line}: no column {', '.join(missing)}; it has {', '.join(names)[:120]}"
        )
    for line, cells in rows:
        if len(cells) != len(names):
            raise ValueError(f"{path}, line {line}: {len(cells)} cells, the header has {len(names)}")
        yield line, dict(zip(names, cells, strict=True))


def _number(cells: dict[str, str], where: str) -> str:
    number = whole_number(cells["emotion"], where)
    if not 0 <= number < len(FER2013):
        raise ValueError(f"{where}: emotion {number}; give 0 to {len(FER2013) - 1}")
    return FER2013[number]


def _voted(said: tuple[int, dict[str, str]], path: Path | None) -> str | None:
    line, cells = said
    emotion = majority([whole_number(cells[name.lower()], f"{path}, line {line}") for name in COLUMNS])
    return emotion if cells["image name"] else None  # FER+ has no image for a row without a name


def _bytes(text: str, where: str) -> bytes:
    try:
        pixels = bytes(map(int, text.split()))
    except ValueError:
        raise ValueError(f"{where}: pixels that are no whole numbers from 0 to 255") from None
    if len(pixels) != _SIDE**2:
        raise ValueError(f"{where}: {len(pixels)} pixels; {_SIDE}×{_SIDE} are needed")
    return pixels


def _box(text: str, where: str) -> Box:
    try:
        left, top, right, bottom = ast.literal_eval(text)
        box = (int(left), int(top), int(right), int(bottom))
        check_geometry(box, 1)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, OverflowError):
        raise ValueError(
            f"{where}: box {text[:40]!r}; four numbers are needed: left, top, right, bottom, left < right, top < bottom"
        ) from None
    return box
