"""Faces in folders, one folder per identity: VGGFace2, CASIA-WebFace, LFW, one's own."""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.readers.bad_images import BadImage
from datamodules.readers.base import OnBadImage, Pixels
from datamodules.readers.decode import SUFFIXES, Crop, check_geometry, decode, read_bytes
from datamodules.readers.index import Arrays, Names, Scan
from datamodules.readers.not_read import BESIDE, is_read, kind_of, said
from datamodules.readers.people import read_people
from datamodules.readers.per_person import FilesPerPerson
from lightning_app.core.files import given_folder
from lightning_app.core.text_file import composed

log = logging.getLogger("faceveil")
_Listed: TypeAlias = tuple[Names, Counter[str]]  # images of a folder, and how many of what is not read
_LOOKED = 3  # folders that are looked into for a tree that is one level too high
_THREADS = 16  # listing waits for the file system, on a network most of all
_OPEN = "/proc/self/fd"  # of Linux: where the files lie that this process has opened
_HAS_OPEN = os.path.isdir(_OPEN)
_SETTLED = 2 * 10**9  # nanoseconds; clocks of file systems tick as coarsely as this
_DIGITS = re.compile(r"([0-9]+)")


class FolderFaces(FilesPerPerson):
    """Read a tree with one folder of JPEG, PNG or WebP images per identity.

    Classes are the folders' names, sorted; within an identity images stand in natural order (2 before 10).
    Names that start with a dot, other files and folders further down are passed over; how many of what is said in a
    line.

    Args:
        root: the tree.
        people: file with one identity (folder name) per line; only these are taken.
        min_images: leave out identities with fewer images.
        max_images: take only the first so many images of each identity, in order.
        crop: box (left, top, right, bottom) in pixels of the files, or the side of a central square; by
            default the whole image.
        size: side of the images handed out, in pixels.
        on_bad_image: 'replace' an image that cannot be decoded by the next good one of its identity, or
            'error'.
        cache_index: keep the scan of the tree between runs, in `$XDG_CACHE_HOME/faceveil`. It is made again
            for those folders whose modification time has changed.

    Raises:
        FileNotFoundError: no such root, or no such file of people.
        ValueError: nothing usable in it, fewer than two identities left, people who are not in the tree.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
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
        self.root, self.crop, self.size, self.on_bad_image = given_folder(root), crop, size, on_bad_image
        self.people, self.min_images, self.max_images = people, min_images, max_images
        self.cache_index = cache_index

    def scan(self) -> None:
        """List the tree, from the cache where it has not changed."""
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"root={self.root}: no such folder (looked for one folder of images per identity); unpack "
                "the set there or give the reader another `root`"
            )
        self._top = os.path.realpath(self.root)
        scan = TreeScan(self.root).get(self.cache_index)
        folders = Names(scan["folders"], scan["folder_ends"])
        self._files = Names(scan["files"], scan["file_ends"])
        names = [folders[i] for i in range(len(folders))]
        counts = scan["counts"]
        kinds = Names(scan["other_kinds"], scan["other_ends"])
        others = [
            (int(at), kinds[number], int(count))
            for number, (at, count) in enumerate(zip(scan["other_at"], scan["other_counts"], strict=True))
        ]
        if not len(self._files):
            raise ValueError(_empty(self.root, names, said(((kind, n) for _, kind, n in others), 0)))
        among = counts > 0
        chosen = self._chosen({n for n, c in zip(names, counts, strict=True) if c})
        if chosen is not None:
            among &= np.isin(names, chosen)
        read = int(counts.sum() if chosen is None else counts[among].sum())
        taken = None if chosen is None else {*chosen}
        here = ((kind, n) for at, kind, n in others if taken is None or names[at] in taken)
        with os.scandir(self.root) as entries:
            beside = sum(map(is_read, entries))
        if line := said([*here, *([(BESIDE, beside)] if beside else [])], read):
            log.warning("root=%s: %s.", self.root, line)
        tell_of_lookalikes(
            [name for name, taken in zip(names, among, strict=True) if taken], f"root={self.root}"
        )
        self.identities, self.labels, self._at = select(
            names, counts, among, self.min_images, self.max_images, str(self.root)
        )

    @property
    def _takes_all(self) -> bool:
        return self.people is None

    def _chosen(self, present: set[str]) -> list[str] | None:
        """Return the folders to take, of those that have images; None for all."""
        return None if self.people is None else read_people(self.people, present, self.root)

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
        return os.path.join(
            self.root, self.identities[int(self.labels[index])], self._files[int(self._at[index])]
        )

    def passed_over(self) -> Iterator[tuple[str, str]]:
        """List what the scan passed over: at the top, and in the folders of those who are taken.

        Where no `people` are chosen, in every folder.
        """
        taken = None if self._takes_all else set(self.identities)
        with os.scandir(self.root) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if entry.name.startswith("."):
                    yield entry.path, "hidden name"
                elif not entry.is_dir():
                    yield entry.path, "outside the identities' folders"
                elif taken is None or entry.name in taken:
                    yield from _passed_over(entry.path)


def _passed_over(folder: str) -> Iterator[tuple[str, str]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.name.startswith("."):
                yield entry.path, "hidden name"
            elif entry.is_dir():
                yield entry.path, "folder within an identity's"
            elif not entry.is_file():
                yield entry.path, "broken link" if entry.is_symlink() else "special file"
            elif not entry.name.lower().endswith(SUFFIXES):
                yield entry.path, "unknown format"


def read_within(path: str, top: str) -> bytes:
    """Read a file of a tree: links are followed within it and not out of it.

    Args:
        path: of the file.
        top: of the tree, as `os.path.realpath` gives it.

    Raises:
        BadImage: it lies outside the tree, is no file, or cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe would keep us waiting
    except OSError as error:
        raise BadImage(f"{path}: cannot be read ({error.strerror})", "cannot be read") from error
    with open(handle, "rb") as file:
        # of the opened file, not of the name: what the name leads to may change, and one look is enough
        real = os.readlink(f"{_OPEN}/{handle}") if _HAS_OPEN else os.path.realpath(path)
        if not real.startswith(os.path.join(top, "")):
            raise BadImage(f"{path}: lies outside the tree, in {real}", "outside the tree")
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise BadImage(f"{path}: is no file", "special file")
        return file.read()


class TreeScan(Scan):
    """Which folders of images a tree has, and which images each.

    Arrays: `folders`, `folder_ends` (names, sorted, those without images too), `mtimes` int64 in nanoseconds
    (−1 where the folder changed so shortly before the scan that a later change may show the same time),
    `counts` int64, `files`, `file_ends` (names, folder after folder); of what is not read `other_at` (place of the
    folder), `other_kinds`, `other_ends` (what it is), `other_counts`.
    """

    kind = "folder"

    def __init__(self, root: Path) -> None:
        self.path = root.resolve()

    def is_current(self, kept: Arrays) -> bool:
        """Compare the list of folders and each one's modification time: one `stat` per folder."""
        names = self._folders()
        folders = Names.of(names)
        return np.array_equal(folders.blob, kept["folders"]) and np.array_equal(
            self._mtimes(names), kept["mtimes"]
        )

    def make(self, kept: Arrays | None) -> Arrays:
        """List the folders that have changed, all of them where nothing was kept."""
        started = time.time_ns()
        names = self._folders()
        mtimes = self._mtimes(names)
        known = _by_folder(kept) if kept is not None else {}

        def files(name: str, mtime: int) -> _Listed:
            before = known.get(name)
            return before[1] if before is not None and before[0] == mtime else self._list(name)

        with ThreadPoolExecutor(_THREADS) as pool:
            both = list(pool.map(files, names, mtimes.tolist()))
        parts = [part for part, _ in both]
        others = [(at, kind, count) for at, (_, kinds) in enumerate(both) for kind, count in kinds.items()]
        folders, listed, kinds = Names.of(names), Names.joined(parts), Names.of(kind for _, kind, _ in others)
        return {
            "folders": folders.blob,
            "folder_ends": folders.ends,
            "mtimes": np.where(mtimes > started - _SETTLED, -1, mtimes),
            "counts": np.array([len(part) for part in parts], np.int64),
            "files": listed.blob,
            "file_ends": listed.ends,
            "other_at": np.array([at for at, _, _ in others], np.int64),
            "other_kinds": kinds.blob,
            "other_ends": kinds.ends,
            "other_counts": np.array([count for _, _, count in others], np.int64),
        }

    def _folders(self) -> list[str]:
        with os.scandir(self.path) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())

    def _mtimes(self, names: list[str]) -> NDArray[np.int64]:
        with ThreadPoolExecutor(_THREADS) as pool:
            stats = pool.map(lambda name: os.stat(os.path.join(self.path, name)).st_mtime_ns, names)
            return np.array(list(stats), np.int64)

    def _list(self, folder: str) -> _Listed:
        names, others = [], Counter[str]()
        with os.scandir(os.path.join(self.path, folder)) as entries:
            for entry in entries:
                if is_read(entry):
                    names.append(entry.name)
                else:
                    others += kind_of(entry)
        return Names.of(sorted(names, key=natural)), others


def _by_folder(kept: Arrays) -> dict[str, tuple[int, _Listed]]:
    folders = Names(kept["folders"], kept["folder_ends"])
    files = Names(kept["files"], kept["file_ends"])
    kinds = Names(kept["other_kinds"], kept["other_ends"])
    others: dict[int, Counter[str]] = {}
    for number, (at, count) in enumerate(zip(kept["other_at"], kept["other_counts"], strict=True)):
        others.setdefault(int(at), Counter())[kinds[number]] = int(count)
    stops = np.cumsum(kept["counts"]).tolist()
    return {
        folders[i]: (int(kept["mtimes"][i]), (files.slice(start, stop), others.get(i, Counter())))
        for i, (start, stop) in enumerate(zip([0, *stops[:-1]], stops, strict=True))
    }


def natural(name: str) -> tuple[list[str | int], str]:
    """Return the sort key of natural order: digits compare as numbers, equal numbers as text."""
    parts: Sequence[str] = _DIGITS.split(name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def check_counts(min_images: int, max_images: int | None) -> None:
    """Refuse bounds on images per identity that leave nothing.

    Raises:
        ValueError: naming the argument and the value received.
    """
    if min_images < 1:
        raise ValueError(f"min_images={min_images}: give at least 1")
    if max_images is not None and max_images < 1:
        raise ValueError(f"max_images={max_images}: give at least 1, or none for all")


def tell_of_lookalikes(names: Sequence[str], what: str) -> None:
    """Warn of folders whose names differ in how accents are written, or in blanks around them, alone.

    Args:
        names: of the folders that are taken.
        what: they lie in, for the message.
    """
    seen: dict[str, str] = {}
    alike = [
        (first, name) for name in names if (first := seen.setdefault(composed(name).strip(), name)) != name
    ]
    if alike:
        log.warning(
            "%s: %d folders are called as another but for the spelling of accents, or for blanks, the first %r and %r: "
            "they count as different people; put them together if they are one.", what, len(alike), *alike[0],
        )  # fmt: skip


def select(
    names: Sequence[str],
    counts: NDArray[np.int64],
    among: NDArray[np.bool_],
    min_images: int,
    max_images: int | None,
    where: str,
) -> tuple[list[str], torch.Tensor, NDArray[np.int64]]:
    """Choose identities by their number of images, and the first images of each.

    Args:
        names: F identities; their images stand one identity after the other.
        counts: `[F]` images of each.
        among: `[F]`, which may be chosen.
        min_images: fewest images of an identity that is taken.
        max_images: most images taken of one.
        where: they come from, for messages.

    Returns:
        Names of the identities taken, `[N]` int64 class index, `[N]` int64 position of each image.

    Raises:
        ValueError: fewer than two identities are left.
    """
    taken = np.flatnonzero(among & (counts >= min_images))
    if len(taken) < 2:
        most = int(counts[among].max(initial=0))
        raise ValueError(
            f"{where}: {len(taken)} of {len(names)} identities left ({int(among.sum())} chosen, "
            f"{len(taken)} of these with min_images={min_images} or more, the largest has {most}): "
            "at least two are needed to train a recogniser"
        )
    starts = (np.cumsum(counts) - counts)[taken]
    each = counts[taken] if max_images is None else np.minimum(counts[taken], max_images)
    labels = np.repeat(np.arange(len(taken)), each)
    within = np.arange(len(labels)) - np.repeat(np.cumsum(each) - each, each)
    return [names[i] for i in taken.tolist()], torch.from_numpy(labels), np.repeat(starts, each) + within


def _empty(root: Path, folders: list[str], others: str | None) -> str:
    wanted = f"looked for one folder per identity with {', '.join(SUFFIXES)} in it"
    if folders:
        there = "" if others is None else f"; {others}"
        deeper = (f for f in folders[:_LOOKED] if any(_has_image(one.path) for one in _folders_in(root / f)))
        nested = next(deeper, None)
        hint = f"; identities lie in {nested}: give root={root / nested}" if nested else ""
        return f"root={root}: none of its {len(folders)} folders has images ({wanted}{there}){hint}"
    files = sum(path.suffix.lower() in SUFFIXES for path in root.iterdir())
    if files:
        return (
            f"root={root}: has {files} images but no folders of identities ({wanted}): sort them into folders"
        )
    return f"root={root}: has no images ({wanted})"


def _folders_in(path: Path) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return [entry for entry, _ in zip((e for e in entries if e.is_dir()), range(_LOOKED), strict=False)]


def _has_image(path: str) -> bool:
    with os.scandir(path) as entries:
        return any(Path(entry.name).suffix.lower() in SUFFIXES for entry in entries)
