"""What lies in a tree of images and is not read: counted by kind while the tree is listed, told of in one line."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable

from datamodules.readers.decode import SUFFIXES

DEEPER, BESIDE = "in folders within them", "beside them"
# what may be an image, beside those that are read: a text or an archive is none, and is passed over without a word
_PICTURES = frozenset({
    ".apng", ".arw", ".avif", ".bmp", ".cr2", ".cr3", ".dib", ".dng", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfi",
    ".jfif", ".jif", ".jp2", ".jpe", ".jxl", ".nef", ".orf", ".pbm", ".pcx", ".pgm", ".pnm", ".ppm", ".psd", ".raf",
    ".raw", ".rgb", ".rw2", ".sgi", ".svg", ".tga", ".tif", ".tiff", ".wbmp",
})  # fmt: skip


def is_read(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry of a person's folder is one of its images, by its name and kind.

    Args:
        entry: of the folder's listing.
    """
    return entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".") and entry.is_file()


def kind_of(entry: os.DirEntry[str]) -> Counter[str]:
    """Return what an entry that is not read is: kinds of pictures, and files of each; hidden ones do not count.

    Args:
        entry: of a person's folder.
    """
    if entry.name.startswith("."):
        return Counter()
    if not entry.is_dir():
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix in SUFFIXES:
            return Counter([f"broken links or special files ({suffix})"])
        return Counter([suffix or "without a suffix"]) if _may_be_picture(entry.name) else Counter()
    # what a link leads to may lead back: links are not followed
    files = sum(sum(map(_may_be_picture, names)) for _, _, names in os.walk(entry.path))
    return Counter({DEEPER: files}) if files else Counter()


def _may_be_picture(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    return name[0] != "." and (not suffix or suffix in SUFFIXES or suffix in _PICTURES)


def said(kinds: Iterable[tuple[str, int]], read: int) -> str | None:
    """Return the line about what is not read; None where everything is.

    Args:
        kinds: what, and how many files.
        read: how many images are.
    """
    counts = Counter[str]()
    for kind, count in kinds:
        counts[kind] += count
    if not counts:
        return None
    listed = ", ".join(
        f"{count} {kind}" for kind, count in sorted(counts.items(), key=lambda kind: (-kind[1], kind))
    )
    return (
        f"{counts.total()} of {counts.total() + read} files in its folders are not read ({listed}): only "
        f"{', '.join(SUFFIXES)} right in a folder are"
    )
