"""`pairs.txt` of a release to verify on: which two images are compared, by pseudonym, in an order that says nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from lightning_app.release.format.pseudonyms import DIGITS

_LINE = re.compile(rf"([0-9a-f]{{{DIGITS}}}) ([0-9a-f]{{{DIGITS}}}) ([01]) ([0-9]|[1-9][0-9])")
LONGEST = 2 * DIGITS + 7  # bytes of a line


class Pair(NamedTuple):
    """Two images.

    Attributes:
        fold: from 0 to 99.
        a: pseudonym of the one that sorts first.
        b: of the other.
        same: whether they show one person.
    """

    fold: int
    a: str
    b: str
    same: bool


def pairs_text(pairs: Iterable[tuple[str, str, bool, int]]) -> str:
    """Return the content of `pairs.txt`: a line for each pair, `image image same fold`, sorted by fold and names.

    Args:
        pairs: pseudonyms of two images, whether they show one person, the fold.

    Raises:
        ValueError: a fold is above 99.
    """
    found = sorted(Pair(fold, min(a, b), max(a, b), same) for a, b, same, fold in pairs)
    if found and found[-1].fold > 99:
        raise ValueError(f"pairs: {found[-1].fold + 1} folds; a release has at most 100")
    return "".join(f"{pair.a} {pair.b} {int(pair.same)} {pair.fold}\n" for pair in found)


def read_pairs_text(data: bytes) -> list[Pair]:
    """Read `pairs.txt`.

    Args:
        data: of the file.

    Raises:
        ValueError: a line is none, or they are in another order than `pairs_text` gives; names the line.
    """
    found: list[Pair] = []
    lines = data.split(b"\n")
    if lines.pop() != b"":
        raise ValueError("does not end with a line's end")
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line[: LONGEST + 1].decode("ascii", "replace"))
        if match is None:
            raise ValueError(f"line {number} is no pair (`image image same fold`)")
        pair = Pair(int(match[4]), match[1], match[2], match[3] == "1")
        if pair.a >= pair.b or (found and pair < found[-1]):
            raise ValueError(f"line {number} is not in its place: pairs are sorted by fold, then by names")
        found.append(pair)
    return found
