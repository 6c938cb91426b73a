"""CelebA: attributes such as the colour of hair, in the classic layout and in Kaggle's."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from datamodules.readers.base import FaceReader, OnBadImage, Pixels
from datamodules.readers.class_folders import SplitName, check_split
from datamodules.readers.decode import Crop, check_geometry, decode, read_bytes, stored
from datamodules.readers.folder import read_within
from datamodules.readers.lists import classes_of, find_file, rows_of, whole_number
from datamodules.readers.not_read import is_read, kind_of, said
from lightning_app.core.files import given_folder
from lightning_app.core.printing import counted

log = logging.getLogger("faceveil")

HAIR = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
_PARTITION = {"train": 0, "validation": 1, "test": 2}
_LISTS = ("", "Anno", "Eval")  # where the archives put them
_IMAGES = (  # Kaggle's archive has the folder within one of the same name
    "img_align_celeba/img_align_celeba", "img_align_celeba", "Img/img_align_celeba",
    "img_align_celeba_png", "Img/img_align_celeba_png",
)  # fmt: skip


class CelebAFaces(FaceReader):
    """Read one split of CelebA with the class that its attributes say, and who is on each image.

    The lists are the classic `list_attr_celeba.txt`, `list_eval_partition.txt` and `identity_CelebA.txt`, or Kaggle's
    CSV of the same; images lie in `img_align_celeba`. Everything is joined by the image's name. An image that a list or
    the folder lacks is left out, and counted in a line. Without a row of its own in the list of identities, or without
    that list, an image's `identity` is −1.

    Args:
        root: folder with lists and images (or with the archives' folders `Anno`, `Eval`, `Img`).
        attributes: one attribute, whose classes are NAME and not_NAME; or several, each a class: then images that have
            none of them, or more than one, are left out. By default the four colours of hair.
        split: train, validation or test, as the list of partitions says.
        crop: box (left, top, right, bottom) in pixels of the files (178×218), or the side of a central square; by
            default the whole image, squeezed to a square.
        size: side of the images handed out, in pixels.
        on_bad_image: 'replace' an image that cannot be decoded by the next good one of its class, or 'error'.

    Raises:
        FileNotFoundError: a list or the folder of images is not there.
        ValueError: a list is damaged, or has no such attribute (the message names the line); two images have one name.
    """

    classes_are_people = False

    def __init__(
        self,
        root: str | os.PathLike[str],
        attributes: Sequence[str] = HAIR,
        split: SplitName = "train",
        crop: Crop = None,
        size: int = 112,
        on_bad_image: OnBadImage = "replace",
    ) -> None:
        check_geometry(crop, size)
        check_split(split)
        if isinstance(attributes, str) or not attributes or len(set(attributes)) < len(attributes):
            raise ValueError(f"attributes={attributes!r}: give a list of one or more names, each once")
        self.root, self.attributes, self.split = given_folder(root), tuple(attributes), split
        self.crop, self.size, self.on_bad_image = crop, size, on_bad_image

    def scan(self) -> None:
        """Read the lists and join them."""
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"root={self.root}: no such folder (looked for CelebA's lists and images)"
            )
        classes = _classes(self._list("list_attr_celeba", "attributes"), self.attributes)
        partition = _numbers(self._list("list_eval_partition", "partitions"))
        people_list = self._find("identity_CelebA")
        people = {} if people_list is None else _numbers(people_list)
        self._top = os.path.realpath(self.root)
        self._folder, there = _images(self.root)
        wanted = _PARTITION[self.split]
        listed = [stem for stem in classes if partition.get(stem) == wanted]
        kept = [stem for stem in listed if stem in there and classes[stem]]
        lacking = {
            "that have none of the attributes, or several": sum(not classes[stem] for stem in listed),
            "that are not in the folder": sum(stem not in there for stem in listed),
            "that the list of attributes lacks": sum(
                part == wanted and stem not in classes for stem, part in partition.items()
            ),
        }
        for why, count in lacking.items():
            if count:
                log.info("CelebA, %s: %d images left out %s.", self.split, count, why)
        if outside := sum(stem not in partition for stem in classes):
            log.info("CelebA: in no partition, and left out: %s.", counted(outside, "image"))
        if not kept:
            raise ValueError(
                f"root={self.root}: no images of {', '.join(self.attributes)} for split={self.split}"
            )
        kept.sort()
        self.identities, self.labels = classes_of([classes[stem] for stem in kept])
        self.person = torch.tensor([people.get(stem, -1) for stem in kept], dtype=torch.int64)
        self._files = [there[stem] for stem in kept]
        self._stems = kept

    def _find(self, stem: str) -> Path | None:
        return find_file([self.root / part for part in _LISTS], [f"{stem}.txt", f"{stem}.csv"])

    def _list(self, stem: str, what: str) -> Path:
        found = self._find(stem)
        if found is None:
            raise FileNotFoundError(f"root={self.root}: no list of {what} ({stem}.txt or {stem}.csv) in it")
        return found

    def read(self, index: int) -> Pixels:
        """Decode one image, see `FaceReader.read`."""
        path = self.name(index)
        return decode(self._bytes(path), self.crop, self.size, path, self.strict, self.allow_lossy_webp)

    def encoded(self, index: int) -> bytes:
        """Return the bytes of an image's file, see `FaceReader.encoded`."""
        return self._bytes(self.name(index))

    def _bytes(self, path: str) -> bytes:
        return read_within(path, self._top) if self.strict else read_bytes(path)

    def name(self, index: int) -> str:
        """Return an image's path."""
        _ = self.labels
        return os.path.join(self._folder, self._files[index])

    def stable_name(self, index: int) -> str:
        """Return an image's name without its suffix: JPEGs and PNGs of one image are one."""
        _ = self.labels
        return self._stems[index]

    def content(self, index: int) -> bytes:
        """Return the image's file."""
        return stored(self.name(index))


def _images(root: Path) -> tuple[str, dict[str, str]]:
    """Find the folder of images: its path, and the files in it by their names without suffix."""
    seen = []
    for name in _IMAGES:
        if (root / name).is_dir():
            files, others = dict[str, str](), Counter[str]()
            with os.scandir(root / name) as entries:
                for entry in entries:
                    if is_read(entry):
                        stem = os.path.splitext(entry.name)[0]
                        if stem in files:
                            both = " and ".join(sorted((files[stem], entry.name)))
                            raise ValueError(f"root={root / name}: {both} have one name; keep one of them")
                        files[stem] = entry.name
                    else:
                        others += kind_of(entry)
            line = said(others.items(), len(files))
            if files:
                if line:
                    log.warning("root=%s: %s.", root / name, line)
                return str(root / name), files
            seen += [f"{name}: {line}"] if line else []
    there = f" ({'; '.join(seen)})" if seen else ""
    raise FileNotFoundError(f"root={root}: no folder img_align_celeba with images in it{there}")


def _classes(path: Path, attributes: Sequence[str]) -> dict[str, str]:
    """Read the list of attributes: image without suffix → its class, '' where it has none."""
    rows = rows_of(path)
    line, header = next(rows, (1, []))
    count = None
    if len(header) == 1 and header[0].isdigit():  # the classic list begins with its length
        count = whole_number(header[0], f"{path}, line {line}")
        line, header = next(rows, (2, []))
    names = header[1:] if path.suffix == ".csv" else header
    missing = [name for name in attributes if name not in names]
    if missing:
        raise ValueError(
            f"attributes: {', '.join(missing)} not in {path}, line {line}, which has {', '.join(names)[:200] or 'none'}"
        )
    at = [names.index(name) for name in attributes]
    found: dict[str, str] = {}
    for line, cells in rows:
        where = f"{path}, line {line}"
        if len(cells) != len(names) + 1:
            raise ValueError(f"{where}: {len(cells) - 1} values, {len(names)} attributes")
        has = [_is_true(cells[1 + place], where) for place in at]
        stem = _new(cells[0], found, where)
        if len(attributes) == 1:
            found[stem] = attributes[0] if has[0] else f"not_{attributes[0]}"
        else:
            found[stem] = attributes[has.index(True)] if sum(has) == 1 else ""
    if count is not None and count != len(found):
        log.warning("%s says that it has %d images; it has %d rows.", path, count, len(found))
    return found


def _numbers(path: Path) -> dict[str, int]:
    """Read a list of images with a number each, whose first line may be a header."""
    found: dict[str, int] = {}
    for place, (line, cells) in enumerate(rows_of(path)):
        where = f"{path}, line {line}"
        if len(cells) != 2:
            raise ValueError(f"{where}: {len(cells)} cells; an image and a number are needed")
        if place == 0 and not os.path.splitext(cells[0])[1]:  # a header: images have a suffix
            continue
        number = whole_number(cells[1], where)
        if number < 0:
            raise ValueError(f"{where}: {number}; give a number of 0 or more")
        found[_new(cells[0], found, where)] = number
    return found


def _new(image: str, found: dict[str, str] | dict[str, int], where: str) -> str:
    stem = os.path.splitext(image)[0]
    if stem in found:
        raise ValueError(f"{where}: {image[:80]!r} stands in the list twice")
    return stem


def _is_true(text: str, where: str) -> bool:
    if text not in ("1", "-1"):
        raise ValueError(f"{where}: {text[:40]!r}; an attribute is 1 or -1")
    return text == "1"
