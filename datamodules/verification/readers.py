"""Readers of verification sets: the distinct images of a list of pairs, in a folder or in a `.bin` file."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from datamodules.readers.base import FaceReader, OnBadImage, Pixels
from datamodules.readers.decode import SUFFIXES, Crop, check_geometry, decode, read_bytes, stored
from datamodules.readers.folder import read_within
from datamodules.verification.pair_folds import FOLDS, sound_folds, warn_of_mix, warn_of_repeats
from datamodules.verification.pair_list import (
    LFW_PATTERN,
    SPACED,
    PairList,
    checked_pairs,
    need_two_folds,
    read_pairs,
)
from datamodules.verification.safe_pickle import load_bin
from lightning_app.core.files import given_folder
from lightning_app.core.text_file import composed

__all__ = ["BinFaces", "PairFaces", "PairList", "pairs_of", "read_pairs"]

_log = logging.getLogger(__name__)


def pairs_of(reader: FaceReader) -> PairList:
    """Return the pairs of a verification set, looked through: see `checked_pairs`.

    A list made by hand is looked through at the first call, and the reader keeps what came of it.

    Args:
        reader: with an attribute `pairs`.

    Raises:
        ValueError: it has none, they cannot be used, or are too few to choose a threshold on.
    """
    what, pairs = type(reader).__name__, reader.pairs
    if pairs is None:
        raise ValueError(f"reader={what}: it has no list of pairs; use PairFaces or DrawnPairs")
    if not pairs.checked:
        pairs = checked_pairs(pairs, len(reader), f"reader={what}")
        reader.pairs = pairs
    return need_two_folds(pairs, f"reader={what}")


class PairFaces(FaceReader):
    """Read the distinct images of a verification list, each once.

    An image that cannot be decoded is an error: another in its place would change the pair.

    Args:
        root: folder the list's images lie under.
        pairs: the list, see `read_pairs`; by default `pairs.txt` in the root or beside it.
        crop: box (left, top, right, bottom) in pixels of the files, or the side of a central square; by
            default the whole image.
        size: side of the images handed out, in pixels.
        missing: what to do about pairs whose images are not there: 'error', or 'skip' them and say how many.
        pattern: where an image of LFW's form lies under the root, without suffix.

    Attributes:
        pairs: the list, `a` and `b` being positions in this reader.

    Raises:
        FileNotFoundError: no such root or list, or images missing.
        ValueError: the list cannot be read.
    """

    on_bad_image: OnBadImage = "error"

    pairs: PairList

    def __init__(
        self,
        root: str | os.PathLike[str],
        pairs: str | os.PathLike[str] | None = None,
        crop: Crop = None,
        size: int = 112,
        missing: Literal["error", "skip"] = "error",
        pattern: str = LFW_PATTERN,
    ) -> None:
        check_geometry(crop, size)
        self.root, self.crop, self.size = given_folder(root), crop, size
        if not self.root.is_dir():
            raise FileNotFoundError(f"root={root}: no such folder (looked for the images of a list of pairs)")
        if pairs is None:
            beside = (self.root / "pairs.txt", self.root.parent / "pairs.txt")
            pairs = next((path for path in beside if path.is_file()), beside[0])
        elif not Path(pairs).is_file() and (below := self.root / pairs).is_file():
            raise FileNotFoundError(
                f"pairs={pairs}: no such file, seen from here; {below} is there: give that path"
            )
        listed = read_pairs(pairs, pattern)
        files = find_images(self.root, listed.names)
        absent = [i for i, name in enumerate(listed.names) if name not in files]
        if absent:
            first = ", ".join(listed.names[i] for i in absent[:3])
            what = f"{len(absent)} of its {len(listed.names)} images are not in {root}, the first: {first}"
            what += _of_other_kinds(self.root, [listed.names[i] for i in absent])
            what += _elsewhere(self.root, listed.names[absent[0]])
            if missing == "error":
                # `Ann Lee 1 2` reads as two images, the flag and a fold
                bare = not any({*"./"} & {*listed.names[i]} for i in absent)
                hint = f"; {SPACED}" if bare else ""
                raise FileNotFoundError(f"pairs={pairs}: {what} (missing: skip leaves their pairs out){hint}")
            total, listed = len(listed), listed.without(torch.tensor(absent))
            if not bool(listed.same.any()) or bool(listed.same.all()):
                raise FileNotFoundError(f"pairs={pairs}: {what}; too few pairs are left without them")
            _log.warning("pairs=%s: %s; %d of %d pairs left out", pairs, what, total - len(listed), total)
            same = listed.same.numpy()
            folds = sound_folds(same, listed.folds.numpy(), f"pairs={pairs} without them", by_name=True)
            warn_of_mix(same, f"pairs={pairs} without them")
            listed = replace(listed, folds=torch.from_numpy(folds))
        listed = _one_name_each(listed, _one_of_copies(Path(root), files), f"pairs={pairs}")
        self.pairs, self.identities, self.labels = listed, listed.identities, listed.labels
        self._files = [files[name] for name in listed.names]

    def read(self, index: int) -> Pixels:
        """Decode one image, see `FaceReader.read`."""
        data, path = self.encoded(index), self.name(index)
        return decode(data, self.crop, self.size, path, self.strict, self.allow_lossy_webp)

    def content(self, index: int) -> bytes:
        """Return the image's file."""
        return stored(self.name(index))

    def encoded(self, index: int) -> bytes:
        """Return the bytes of an image's file, see `FaceReader.encoded`."""
        path = self.name(index)
        return read_within(path, os.path.realpath(self.root)) if self.strict else read_bytes(path)

    def name(self, index: int) -> str:
        """Return an image's path."""
        return os.path.join(self.root, self._files[index])

    def stable_name(self, index: int) -> str:
        """Return an image's name in the list."""
        return self.pairs.names[index]


def find_images(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Find images under a root by name, whichever suffix they have there.

    Args:
        root: the folder.
        names: paths relative to it; one that is not there as given is looked for with the other suffixes
            (a released set holds PNG where the list says JPEG), in either case (`.JPG`), with the folders of a
            backslash, and whichever way accents are written.

    Returns:
        Paths relative to the root, by name; names that are not found are left out.
    """
    found, tree = {}, _Tree(root)
    for name in names:
        stem, suffix = os.path.splitext(name)
        known = suffix.lower() in SUFFIXES
        candidates = [name] if known else []
        candidates += [(stem if known else name) + other for other in SUFFIXES]
        as_given = (candidate for candidate in candidates if os.path.isfile(os.path.join(root, candidate)))
        file = next(as_given, None) or next(filter(None, map(tree.find, candidates)), None)
        if file is not None:
            found[name] = file
    return found


def _one_of_copies(root: Path, files: Mapping[str, str]) -> dict[str, str]:
    """Let names of byte for byte equal files lead to the first of them; files of a length of their own are not read."""
    lengths: dict[int, list[str]] = {}
    for path in dict.fromkeys(files.values()):
        lengths.setdefault(os.path.getsize(os.path.join(root, path)), []).append(path)
    first, leads = dict[bytes, str](), dict[str, str]()
    for alike in lengths.values():
        if len(alike) > 1:
            for path in alike:
                content = hashlib.sha256(read_bytes(os.path.join(root, path))).digest()
                leads[path] = first.setdefault(content, path)
    return {name: leads.get(path, path) for name, path in files.items()}


def _one_name_each(pairs: PairList, files: Mapping[str, str], what: str) -> PairList:
    """Take the spellings of one file for one image: with and without a suffix, with either kind of slash; and copies.

    Raises:
        ValueError: then a pair is listed both as the same person and as different ones.
    """
    first: dict[str, int] = {}
    same_as = torch.tensor([first.setdefault(files[name], number) for number, name in enumerate(pairs.names)])
    if len(first) == len(pairs.names):
        return pairs
    kept, place = torch.unique(same_as, return_inverse=True)
    a, b = place[pairs.a], place[pairs.b]
    flags: dict[tuple[int, int], bool] = {}
    for one, other, same in zip(a.tolist(), b.tolist(), pairs.same.tolist(), strict=True):
        if flags.setdefault((min(one, other), max(one, other)), same) != same:
            names = [files[pairs.names[int(kept[number])]] for number in (one, other)]
            raise ValueError(
                f"{what}: the pair of {names[0]} and {names[1]}, whose names are written in several ways or which have "
                "copies, is listed as the same person and as different ones: take one of them out"
            )
    _log.warning(
        "%s: %d of its %d names are other spellings of one file, or files that are copies of it.",
        what, len(pairs.names) - len(first), len(pairs.names),
    )  # fmt: skip
    merged = PairList(
        names=[pairs.names[number] for number in kept.tolist()], a=a, b=b, same=pairs.same, folds=pairs.folds,
        identities=pairs.identities, labels=pairs.labels[kept],
    )  # fmt: skip
    warn_of_repeats(
        a.numpy(), b.numpy(), pairs.same.numpy(), pairs.folds.numpy(), what,
        lambda pair: f"{merged.names[int(a[pair])]} with {merged.names[int(b[pair])]}",
    )  # fmt: skip
    return replace(merged, checked=True)


def _of_other_kinds(root: Path, names: list[str]) -> str:
    """Return how many of the names are there as files that no reader takes; nothing where none is."""
    there = [name for name in names if os.path.isfile(os.path.join(root, name.replace("\\", "/")))]
    if not there:
        return ""
    kinds = sorted({os.path.splitext(name)[1].lower() or "no suffix" for name in there})
    return f" ({len(there)} of them are there as {', '.join(kinds)}: only {', '.join(SUFFIXES)} are read)"


def _elsewhere(root: Path, name: str) -> str:
    """Return where an image that is missing may be: under a name in other letters, or one folder up or down."""
    at, names = root, name.replace("\\", "/").split("/")
    for part in names:
        try:
            there = {entry.casefold(): entry for entry in os.listdir(at)}
        except OSError:
            break
        if part.casefold() not in there and os.path.splitext(part)[1].lower() not in SUFFIXES:
            there = {os.path.splitext(entry)[0].casefold(): entry for entry in there.values()}
        if part.casefold() not in there:
            break
        at /= there[part.casefold()]
    else:
        found = os.path.relpath(at, root)
        other_letters = found not in (name, *(name + suffix for suffix in SUFFIXES))
        return (
            f" ({found} is there: capital and small letters count)" if other_letters and at.is_file() else ""
        )
    below = sorted(entry for entry in root.iterdir() if entry.is_dir())[:20]
    other = next((folder for folder in (root.resolve().parent, *below) if find_images(folder, [name])), None)
    return "" if other is None else f" (it is under {other}: give that as root)"


class _Tree:
    """Finds files whose names are written otherwise: accents, case of the suffix, separators.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listed: dict[
            str, dict[str, str]
        ] = {}  # folder relative to the root → names in it, by their keys

    def find(self, path: str) -> str | None:
        """Return the path of a file as it is written there; None where there is none."""
        *folders, file = path.replace("\\", "/").split("/")
        at = ""
        for folder in folders:
            if folder in ("", "."):
                continue
            there = self._names(at).get(composed(folder))
            if there is None:
                return None
            at = os.path.join(at, there)
        there = self._names(at).get(_file_key(file))
        whole = None if there is None else os.path.join(at, there)
        return whole if whole is not None and os.path.isfile(self.root / whole) else None

    def _names(self, folder: str) -> dict[str, str]:
        if folder not in self._listed:
            try:
                names = sorted(os.listdir(self.root / folder))
            except OSError:  # a file, or nothing
                names = []
            # a folder's name is its own key; a file's has its suffix in small letters
            self._listed[folder] = {_file_key(name): name for name in names} | {composed(n): n for n in names}
        return self._listed[folder]


def _file_key(name: str) -> str:
    stem, suffix = os.path.splitext(composed(name))
    return stem + suffix.lower()


class BinFaces(FaceReader):
    """Read an InsightFace verification set (`lfw.bin`, `cfp_fp.bin`, `agedb_30.bin`).

    The file is a pickle of encoded images and a list of which pairs are the same person; images 2i and 2i + 1
    are pair i. It is read by an unpickler that can build nothing but these. Images that are equal byte for
    byte are kept once. Pairs go into ten folds of consecutive pairs, as InsightFace's evaluation takes them
    (scikit-learn's KFold, not shuffled), where these are of so many same and so many different pairs each, as in
    the published sets; else they are dealt anew, with a line that says so (see `sound_folds`). An image that cannot
    be decoded is an error.

    Args:
        path: the file.
        size: side of the images handed out, in pixels.
        crop: box (left, top, right, bottom) in pixels of the images, or the side of a central square; by
            default the whole image.

    Attributes:
        pairs: the list, `a` and `b` being positions in this reader.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file carries code, is truncated or holds something else.
    """

    on_bad_image: OnBadImage = "error"

    pairs: PairList

    def __init__(self, path: str | os.PathLike[str], size: int = 112, crop: Crop = None) -> None:
        check_geometry(crop, size)
        self.path, self.size, self.crop = Path(path), size, crop
        if not self.path.is_file():
            raise FileNotFoundError(
                f"bin={path}: no such file (looked for an InsightFace set such as lfw.bin)"
            )
        images, issame = load_bin(self.path)
        position: dict[bytes, int] = {}
        kept: list[bytes] = []
        at = np.empty(len(images), np.int64)
        digests = {id(image): hashlib.sha256(image).digest() for image in images}  # a file may name one often
        for i, image in enumerate(images):
            at[i] = position.setdefault(digests[id(image)], len(kept))
            if at[i] == len(kept):
                kept.append(image)
        same = np.array(issame, bool)
        _, sizes = np.unique(
            np.arange(len(same)) % FOLDS, return_counts=True
        )  # KFold: the first are the larger
        # one blob: a list of bytes would be copied by every forked worker that touches it
        self._blob = np.frombuffer(b"".join(kept), np.uint8)
        self._ends = np.cumsum([len(image) for image in kept], dtype=np.int64)
        self._first = np.unique(at, return_index=True)[1]
        self.identities = []
        self.labels = torch.full((len(kept),), -1, dtype=torch.int64)
        stated = PairList(
            names=[self.name(i) for i in range(len(kept))],
            a=torch.from_numpy(at[::2].copy()),
            b=torch.from_numpy(at[1::2].copy()),
            same=torch.from_numpy(same),
            folds=torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)),
            identities=[],
            labels=self.labels,
        )
        self.pairs = checked_pairs(stated, len(kept), f"bin={path}", by_name=False)

    def read(self, index: int) -> Pixels:
        """Decode one image, see `FaceReader.read`."""
        data, name = self.encoded(index), self.name(index)
        return decode(data, self.crop, self.size, name, self.strict, self.allow_lossy_webp)

    def content(self, index: int) -> bytes:
        """Return the image as the file holds it."""
        return self.encoded(index)

    def encoded(self, index: int) -> bytes:
        """Return the bytes of an image, as the file holds them, see `FaceReader.encoded`."""
        start = self._ends[index - 1] if index else 0
        return self._blob[start : self._ends[index]].tobytes()

    def file(self, index: int) -> str:
        """Return the path of the file."""
        return str(self.path)

    def name(self, index: int) -> str:
        """Return the file and where in it the image stands first."""
        return f"{self.path}[{int(self._first[index])}]"

    def stable_name(self, index: int) -> str:
        """Return where in the file the image stands first."""
        return str(int(self._first[index]))
