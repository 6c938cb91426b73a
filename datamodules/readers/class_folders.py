"""Images in folders, one folder per class, in splits: emotions, or any other task."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from datamodules.readers.base import OnBadImage
from datamodules.readers.decode import Crop
from datamodules.readers.folder import FolderFaces
from lightning_app.core.files import given_folder
from lightning_app.core.text_file import composed

SplitName = Literal["train", "validation", "test"]
FOLDERS: dict[str, tuple[str, ...]] = {
    "train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",),
}  # fmt: skip


class ClassFolders(FolderFaces):
    """Read one split of a tree `SPLIT/CLASS/*.jpg`, where SPLIT is train, validation (or valid, val), or test.

    Classes are the folders' names, sorted. They are no people: batches have the class as `target`, and `identity` is
    −1.

    Args:
        root: the folder that holds the splits.
        split: which one to read.
        classes: names of the folders to take; by default all.
        max_images: take only the first so many images of each class, in natural order.
        crop: box (left, top, right, bottom) in pixels of the files, or the side of a central square; by default the
            whole image.
        size: side of the images handed out, in pixels.
        on_bad_image: 'replace' an image that cannot be decoded by the next good one of its class, or 'error'.
        cache_index: keep the scan of the tree between runs, see `FolderFaces`.

    Raises:
        FileNotFoundError: there is no such root, or no folder of this split in it.
        ValueError: two folders of one split, nothing usable, classes that are not there, fewer than two classes.
    """

    classes_are_people = False

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: SplitName = "train",
        classes: Sequence[str] | None = None,
        max_images: int | None = None,
        crop: Crop = None,
        size: int = 112,
        on_bad_image: OnBadImage = "replace",
        cache_index: bool = True,
    ) -> None:
        super().__init__(
            root, max_images=max_images, crop=crop, size=size, on_bad_image=on_bad_image, cache_index=cache_index
        )  # fmt: skip
        check_split(split)
        if classes is not None and len(set(classes)) < max(2, len(classes)):
            raise ValueError(f"classes={list(classes)}: give two or more names of folders, each once")
        self.top, self.split, self.classes = given_folder(root), split, classes

    def scan(self) -> None:
        """List the split's folder, from the cache where it has not changed."""
        self.root = find_split(self.top, self.split)
        super().scan()
        self._top = os.path.realpath(self.top)  # a split's folder may itself lead out of the set

    @property
    def _takes_all(self) -> bool:
        return self.classes is None

    def _chosen(self, present: set[str]) -> list[str] | None:
        if self.classes is None:
            return None
        known = {composed(name): name for name in present}
        missing = [name for name in self.classes if composed(name) not in known]
        if missing:
            raise ValueError(
                f"classes: no images of {', '.join(missing)} in {self.root}, which has {', '.join(sorted(present))}"
            )
        return [known[composed(name)] for name in self.classes]

    def name(self, index: int) -> str:
        """Return an image's path."""
        _ = self.labels  # looked through: the split's folder is known then
        return super().name(index)

    def stable_name(self, index: int) -> str:
        """Return an image's split, class and file."""
        return f"{self.split}/{super().stable_name(index)}"

    def stable_names(self) -> Iterator[str]:
        """Yield all stable names in order."""
        return (f"{self.split}/{name}" for name in super().stable_names())


def check_split(split: str) -> None:
    """Refuse a split that has no such name.

    Args:
        split: as a config has it.

    Raises:
        ValueError: it is none of train, validation and test.
    """
    if split not in FOLDERS:
        raise ValueError(f"split={split!r}: give one of {', '.join(FOLDERS)}")


def find_split(root: Path, split: str) -> Path:
    """Find the folder of a split.

    Args:
        root: that holds the splits' folders.
        split: train, validation or test.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are two, such as `val` and `validation`.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"root={root}: no such folder (looked for one with {split}/CLASS/ in it)")
    found = [root / name for name in FOLDERS[split] if (root / name).is_dir()]
    if not found:
        there = sorted(entry.name for entry in root.iterdir() if entry.is_dir())[:8]
        raise FileNotFoundError(
            f"root={root}: no folder {' or '.join(FOLDERS[split])} in it (split={split}); it has "
            f"{', '.join(there) or 'no folders'}"
        )
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise ValueError(f"root={root}: has {names} for split={split}: keep one of them")
    return found[0]
