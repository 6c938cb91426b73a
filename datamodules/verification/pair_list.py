"""Verification lists: which two images show the same person."""

from __future__ import annotations

import csv
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from string import Formatter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.verification.pair_folds import deal_folds, sound_folds, warn_of_mix, warn_of_repeats
from lightning_app.core.text_file import composed, text_of

LFW_PATTERN = "{name}/{name}_{number:04d}"

_log = logging.getLogger(__name__)
_QUOTED = re.compile(r'(?:(?<=^)|(?<=[\s,]))"[^"]*"')
SPACED = "a name with spaces: put a tab between the columns, or the name in double quotes"
_LONGEST = 9  # digits of a count
_FIELDS = {"name": "s?", "number": "0?[0-9]{0,2}d?"}  # of a pattern, and how each may be written


@dataclass(frozen=True)
class PairList:
    """Pairs over a list of distinct images.

    Attributes:
        names: M images, each once, in the order of first mention: paths relative to the root.
        a: `[P]` int64, position of each pair's first image in `names`.
        b: `[P]` int64, of its second.
        same: `[P]` bool, whether they show the same person.
        folds: `[P]` int64, fold of each pair, from 0.
        identities: names of the people, sorted; empty where the list does not tell. Of a list of paths they are the
            images' folders, where every image has one and no pair contradicts it.
        labels: `[M]` int64, position of each image's person in `identities`; −1 where not known.
        checked: whether `checked_pairs` has looked through it; of a list made by hand it has not.
    """

    names: list[str]
    a: Tensor
    b: Tensor
    same: Tensor
    folds: Tensor
    identities: list[str]
    labels: Tensor
    checked: bool = False

    def __len__(self) -> int:
        return int(self.same.shape[0])

    def without(self, images: Tensor) -> PairList:
        """Drop every pair that has one of these images, and the images no pair is left with.

        Args:
            images: int64, positions in `names`.
        """
        kept = ~(torch.isin(self.a, images) | torch.isin(self.b, images))
        used, back = torch.unique(torch.stack([self.a[kept], self.b[kept]]), return_inverse=True)
        labels = self.labels[used]
        people, again = torch.unique(labels[labels >= 0], return_inverse=True)
        labels = labels.masked_scatter(labels >= 0, again)
        return PairList(
            names=[self.names[i] for i in used.tolist()],
            a=back[0],
            b=back[1],
            same=self.same[kept],
            folds=self.folds[kept],
            identities=[self.identities[i] for i in people.tolist()],
            labels=labels,
            checked=self.checked,
        )


def checked_pairs(
    pairs: PairList, images: int, what: str, by_name: bool = True, lines: Sequence[int] = ()
) -> PairList:
    """Scan a list of pairs, whoever made it: folds that are none are dealt anew, what misleads is said.

    See `sound_folds` for the folds. Said in a line each are pairs of both kinds in unequal numbers, pairs of an image
    with itself, repeated ones, and flags that contradict the labels.

    Args:
        pairs: the list.
        images: how many the reader has.
        what: the list, for messages.
        by_name: whether every pair names its fold; else the folds are so many consecutive pairs each.
        lines: of the file it was read from, one for each pair, for messages; without them pairs are counted from 1.

    Returns:
        The list with folds from 0, `checked`.

    Raises:
        ValueError: its parts are not of one length or type, it points to images that are not there, or all its pairs
            are of one kind.
    """
    _check_parts(pairs, images, what)
    a, b = pairs.a.numpy().astype(np.int64), pairs.b.numpy().astype(np.int64)
    same, stated = pairs.same.numpy().astype(bool), pairs.folds.numpy().astype(np.int64)
    if not same.any() or same.all():
        raise ValueError(
            f"{what}: {int(same.sum())} same and {int((~same).sum())} different pairs; both are needed"
        )
    folds = sound_folds(same, stated, what, by_name)
    warn_of_mix(same, what)
    warn_of_repeats(
        a, b, same, folds, what, lambda pair: f"line {lines[pair]}" if lines else f"pair {pair + 1}"
    )
    labels = pairs.labels.numpy() if len(pairs.labels) == images else np.full(images, -1)
    known = (labels[a] >= 0) & (labels[b] >= 0)
    if wrong := int((((labels[a] == labels[b]) != same) & known).sum()):
        _log.warning("%s: of %d pairs the flag says otherwise than the labels of the images.", what, wrong)
    return replace(pairs, folds=torch.from_numpy(folds), checked=True)


def need_two_folds(pairs: PairList, what: str) -> PairList:
    """Refuse a list that verification cannot choose a threshold on; else hand it on.

    Raises:
        ValueError: there are fewer than two pairs of a kind, or fewer than two folds.
    """
    alike = int(pairs.same.sum())
    if len(pairs.folds.unique()) < 2:
        raise ValueError(
            f"{what}: {alike} same and {len(pairs) - alike} different pairs are too few: a fold's threshold is chosen "
            "on other folds, give two or more of each kind"
        )
    return pairs


def _check_parts(pairs: PairList, images: int, what: str) -> None:
    for name, part in (("a", pairs.a), ("b", pairs.b), ("same", pairs.same), ("folds", pairs.folds)):
        if part.ndim != 1 or len(part) != len(pairs.same) or part.is_floating_point() or part.is_complex():
            raise ValueError(
                f"{what}: its pairs' {name} is {part.dtype} {list(part.shape)}; give one whole number for each of "
                f"{len(pairs.same)} pairs"
            )
    if not bool(((pairs.same == 0) | (pairs.same == 1)).all()):
        raise ValueError(f"{what}: its pairs' same holds other numbers than 0 and 1; give bool")
    for name, ends in (("a", pairs.a), ("b", pairs.b)):
        if len(ends) and not 0 <= int(ends.min()) <= int(ends.max()) < images:
            raise ValueError(
                f"{what}: its pairs' {name} holds {int(ends.min())} … {int(ends.max())}; there are {images} images, "
                "numbered from 0"
            )


def read_pairs(path: str | os.PathLike[str], pattern: str = LFW_PATTERN) -> PairList:
    """Read a list of pairs.

    Two forms, told apart by the second column; columns are separated by tabs, commas or spaces, empty lines
    are passed over. A name with spaces takes tabs or commas between the columns, or stands in double quotes:

    - LFW's: `name i j` (the same person's images i and j) and `name1 i name2 j`. It may start with a header:
      `folds n` (each fold n same pairs and n different), or `n` (View 1, which has no folds).
    - paths: `path1 path2 same` or `path1 path2 same fold`, same 0 or 1; the first line may name the columns.

    A list that does not state its folds is dealt into ten, consecutive among the same and among the different
    pairs (fewer where there are fewer than ten of either); so is, with a line that says so, one whose folds are not
    what it states, such as a list that is sorted by kind: see `sound_folds`.

    Args:
        path: the file.
        pattern: where an image of LFW's form lies under the root, without suffix; `{name}` and `{number}`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a pattern of another form, a line that cannot be read or that leads out of the root (file,
            number and text are named), a header that does not fit, pairs of one kind only, a pair listed both
            as the same person and as different ones, a fold on some lines and not on others.
    """
    check_pattern(pattern)
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"pairs={path}: no such file (looked for a list of pairs such as LFW's pairs.txt)"
        )
    # composed: a name is one person however its accents are written
    text = composed(text_of(Path(path).read_bytes(), f"pairs={path}"))
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    header = _header(lines[0][1]) if lines else None
    if header is not None:
        lines = lines[1:]
    rows = [_row(line, pattern, f"{path}, line {number}") for number, line in lines]
    if header:
        folds, each = header if len(header) == 2 else (1, header[0])
        if len(rows) != folds * 2 * each:
            raise ValueError(
                f"{path}: its first line promises {folds} × 2 × {each} = {folds * 2 * each} pairs, "
                f"it has {len(rows)}"
            )
    same = np.array([row.same for row in rows], bool)
    if not same.any() or same.all():
        raise ValueError(
            f"{path}: {int(same.sum())} same and {int((~same).sum())} different pairs; both are needed"
        )
    _check_flags(rows, lines, path)
    if header and len(header) == 1 and int(same.sum()) != header[0]:
        _log.warning(
            "%s: its first line promises %d same and %d different pairs, it has %d and %d.",
            path, header[0], header[0], same.sum(), (~same).sum(),
        )  # fmt: skip
    stated = [row.fold for row in rows]
    without = [number for (number, _), fold in zip(lines, stated, strict=True) if fold is None]
    fold: NDArray[np.int64]
    if header and len(header) == 2:
        fold = np.arange(len(rows)) // (2 * header[1])
    elif len(without) == len(rows):
        fold = deal_folds(same)
    elif without:
        raise ValueError(
            f"{path}, line {without[0]}: has no fold, other lines have one; give all of them one ({SPACED})"
        )
    else:
        fold = np.unique(np.array(stated, dtype=object), return_inverse=True)[1].ravel()
    made = _pair_list(_with_people(rows, lines, path), same, fold)
    numbers = [number for number, _ in lines]
    return checked_pairs(made, len(made.names), str(path), by_name=not header, lines=numbers)


@dataclass(frozen=True)
class _Row:
    images: tuple[str, str]
    people: tuple[str, str] | None
    same: bool
    fold: int | None = None


def _columns(line: str) -> list[str]:
    text = line.strip()
    bare = _QUOTED.sub("", text)  # what stands in quotes separates nothing
    separator = "\t" if "\t" in bare else "," if bare.count(",") >= 2 else None
    if bare == text:
        return [column.strip() for column in text.split(separator)]
    parts = next(csv.reader([text], delimiter=separator or " ", skipinitialspace=True))
    return [column.strip() for column in parts]


def _header(line: str) -> tuple[int, ...] | None:
    """Read a first line that is no pair: one or two counts, or () for names of columns."""
    columns = _columns(line)
    if len(columns) == 1 and "," in line:  # two counts of a list whose columns commas separate
        columns = [column.strip() for column in line.split(",")]
    if len(columns) in (1, 2) and all(map(_is_count, columns)):
        return tuple(int(column) for column in columns)
    return () if len(columns) in (3, 4) and columns[2].lower() in ("same", "issame", "label") else None


def _row(line: str, pattern: str, where: str) -> _Row:
    columns = _columns(line)
    match columns:
        case [name, i, j] if _is_count(i) and _is_count(j):
            _check_within(where, name)
            name = _plain(name)
            return _Row((_place(pattern, name, i), _place(pattern, name, j)), (name, name), True)
        case [name, i, other, j] if _is_count(i) and _is_count(j):
            _check_within(where, name, other)
            name, other = _plain(name), _plain(other)
            images = (_place(pattern, name, i), _place(pattern, other, j))
            return _Row(images, (name, other), name == other)
        case [first, second, ("0" | "1") as same, *rest] if not rest or (
            len(rest) == 1 and _is_count(rest[0])
        ):
            _check_within(where, first, second)
            return _Row((_plain(first), _plain(second)), None, same == "1", int(rest[0]) if rest else None)
    spaced = len(columns) > 3 and "\t" not in line and line.count(",") < 2
    hint = f"; {SPACED}" if spaced else ""
    raise ValueError(
        f"{where}: {line.strip()[:200]!r} is no pair; 'name i j', 'name1 i name2 j' or 'path1 path2 0|1 [fold]' is "
        f"needed{hint}"
    )


def _plain(path: str) -> str:
    """Return the one spelling of a path: `./a//b` is `a/b`; what has backslashes stays as it is."""
    return path if "\\" in path else PurePosixPath(path).as_posix()


def _is_count(column: str) -> bool:
    # not isdigit, which takes ² for a digit; and longer ones are no counts
    return column.isdecimal() and len(column) <= _LONGEST


def _check_within(where: str, *names: str) -> None:
    """Refuse names that lead out of the folder the list's images lie under, however they would be written."""
    for name in names:
        for path in (PurePosixPath(name), PureWindowsPath(name)):
            if path.anchor or ".." in path.parts:
                raise ValueError(
                    f"{where}: {name[:200]!r} leads out of the folder of images: give paths relative to it, without .."
                )


def check_pattern(pattern: str) -> None:
    """Refuse a pattern that says more than where name and number stand: Python's formats can ask for any memory.

    Args:
        pattern: see `read_pairs`.

    Raises:
        ValueError: it has other fields, or ones of another form.
    """
    try:
        fields = [
            (field, form, how) for _, field, form, how in Formatter().parse(pattern) if field is not None
        ]
    except ValueError as error:
        raise ValueError(f"pattern={pattern[:200]!r}: {error}; give one such as {LFW_PATTERN}") from error
    for field, form, how in fields:
        if how or field not in _FIELDS or not re.fullmatch(_FIELDS[field], form or ""):
            raise ValueError(
                f"pattern={pattern[:200]!r}: {{{field[:80]}}} is neither {{name}} nor {{number}} of up to 99 digits; "
                f"give one such as {LFW_PATTERN}"
            )


def _place(pattern: str, name: str, number: str) -> str:
    return pattern.format(name=name, number=int(number))


def _check_flags(rows: list[_Row], lines: list[tuple[int, str]], path: str | os.PathLike[str]) -> None:
    """Refuse a pair that is said to be of one person and of two."""
    seen: dict[frozenset[str], tuple[bool, int]] = {}
    for row, (number, line) in zip(rows, lines, strict=True):
        images = frozenset(row.images)
        if len(images) == 1 and not row.same:
            raise ValueError(
                f"{path}, line {number}: {line.strip()!r} says that an image and itself show different people"
            )
        same, first = seen.setdefault(images, (row.same, number))
        if same != row.same:
            raise ValueError(
                f"{path}, line {number}: {line.strip()!r} says {'same' if row.same else 'different'}, line {first} "
                "says the opposite of this pair: take one of them out"
            )


def _with_people(rows: list[_Row], lines: list[tuple[int, str]], path: str | os.PathLike[str]) -> list[_Row]:
    """Take the folder of each path as its person, unless a path has none or a pair says otherwise."""
    if any(row.people is not None for row in rows):
        return rows
    folders = {image: PurePosixPath(image.replace("\\", "/")).parent for row in rows for image in row.images}
    if not all(folder.name for folder in folders.values()):
        return rows
    other = [(folders[row.images[0]] == folders[row.images[1]]) != row.same for row in rows]
    if any(other):
        _warn_of_other_people(rows, other, lines, path)
        return rows
    distinct = set(folders.values())
    short = len({folder.name for folder in distinct}) == len(distinct)  # else a/1 and b/1 would be one person
    people = {image: folder.name if short else str(folder) for image, folder in folders.items()}
    return [replace(row, people=(people[row.images[0]], people[row.images[1]])) for row in rows]


def _warn_of_other_people(
    rows: list[_Row], other: list[bool], lines: list[tuple[int, str]], path: str | os.PathLike[str]
) -> None:
    """Warn which flags contradict the folders, where folders are people: for most pairs of either kind they are."""
    for kind in (True, False):
        of_kind = [wrong for row, wrong in zip(rows, other, strict=True) if row.same == kind]
        if 2 * sum(of_kind) >= len(of_kind):
            return  # probe/ann gallery/ann, or one folder for all
    number, line = lines[other.index(True)]
    _log.warning(
        "%s: %d of %d pairs say otherwise than their folders, which seem to be people; the first is line %d, %r. Who "
        "is on the images is not taken from the folders then.",
        path, sum(other), len(rows), number, line.strip(),
    )  # fmt: skip


def _pair_list(rows: list[_Row], same: NDArray[np.bool_], fold: NDArray[np.int64]) -> PairList:
    position: dict[str, int] = {}
    person: dict[str, str] = {}
    for row in rows:
        for side, image in enumerate(row.images):
            position.setdefault(image, len(position))
            if row.people is not None:
                person.setdefault(image, row.people[side])
    identities = sorted(set(person.values()))
    classes = {name: i for i, name in enumerate(identities)}
    labels = [classes[person[image]] if image in person else -1 for image in position]
    ends = torch.tensor([[position[image] for image in row.images] for row in rows], dtype=torch.int64)
    return PairList(
        names=list(position),
        a=ends[:, 0].clone(),
        b=ends[:, 1].clone(),
        same=torch.from_numpy(same),
        folds=torch.from_numpy(fold.astype(np.int64)),
        identities=identities,
        labels=torch.tensor(labels, dtype=torch.int64),
    )
