"""Lists of people: which identities of a set are taken."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from lightning_app.core.text_file import composed, text_of

Line = tuple[int, str]  # number, from 1, and what stands there


def read_people(path: str | os.PathLike[str], present: set[str], where: str | os.PathLike[str]) -> list[str]:
    """Read a list of identities, one per line; what follows a tab (LFW puts a count there) is passed over.

    LFW's own lists are understood, with a count in the first line (`peopleDevTrain.txt`) or with folds (`people.txt`).
    A name is found whichever way its accents are written, with `./` before it or a slash after it.

    Args:
        path: the file, see `text_of` for its encoding.
        present: identities there are.
        where: they were looked for, for messages.

    Returns:
        Identities as they are written in `present`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the list is empty, no such text, or names identities that are not there; lines are named.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"people={path}: no such file with one identity per line; null takes everybody"
        )
    text = text_of(Path(path).read_bytes(), f"people={path}")
    lines = [
        (n, name) for n, line in enumerate(text.splitlines(), 1) if (name := line.split("\t")[0].strip())
    ]
    if lines and lines[0][1] not in present:
        lines = _without_counts(lines)
    if not lines:
        raise ValueError(f"people={path}: the file is empty, one identity per line is needed")
    known = {composed(name): name for name in sorted(present)}
    # LFW's counts, with blanks instead of the tab, stand on every line; else `Room 2` is another than `Room`
    tabbed = {n for n, line in enumerate(text.splitlines(), 1) if "\t" in line}
    counted = all(n in tabbed or (" " in name and name.rpartition(" ")[2].isdecimal()) for n, name in lines)
    people, missing = [], []
    for number, name in lines:
        found = _find(name, present, known, counted and number not in tabbed)
        if found is None:
            missing.append((number, name))
        else:
            people.append(found)
    if missing:
        raise ValueError(
            f"people={path}, line {missing[0][0]}: {len(missing)} of {len(lines)} people have no images in {where}, "
            f"the first: {', '.join(name for _, name in missing[:3])}{_nearest(missing[0][1], known)}"
        )
    return people


def _without_counts(lines: Sequence[Line]) -> list[Line]:
    """Leave out the counts of LFW's lists: of all people in the first line, or of folds and of each fold's people."""
    if _is_count(lines[0][1], len(lines) - 1):
        return list(lines[1:])
    rest, names = list(lines[1:]), []
    while rest:
        count = int(rest[0][1]) if rest[0][1].isdecimal() and len(rest[0][1]) < 10 else 0
        if not 0 < count < len(rest):
            return list(lines)
        names.append(rest[1 : count + 1])
        rest = rest[count + 1 :]
    return [line for fold in names for line in fold] if _is_count(lines[0][1], len(names)) else list(lines)


def _is_count(text: str, count: int) -> bool:
    return text.lstrip("0") == str(count)


def _find(name: str, present: set[str], known: dict[str, str], counted: bool) -> str | None:
    """Find an identity by its name as the list has it, with a count behind it where every line has one; else None."""
    if name in present:
        return name
    plain = name.replace("\\", "/").removeprefix("./").rstrip("/")
    before = plain.rpartition(" ")[0].strip()
    return known.get(composed(plain)) or (known.get(composed(before)) if counted and before else None)


def _nearest(name: str, known: dict[str, str]) -> str:
    if len(known) >= 20_000:
        return ""
    folded = {one.casefold(): one for one in known}
    near = [folded[one] for one in get_close_matches(composed(name).casefold(), folded, n=1, cutoff=0.8)]
    return f"; the nearest name there is {near[0]}" if near else ""
