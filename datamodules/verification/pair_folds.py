"""Whether a list of pairs is what it says it is: its folds, its flags, and pairs that ought not to be in it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FOLDS = 10  # of a list that does not state its own
_MIX = 0.1  # by how much the share of same-person pairs of a fold may differ from the list's
_UNEVEN = 0.05  # by how much guessing may get more than a half of the pairs right before that is told

_log = logging.getLogger(__name__)
_told: set[str] = set()  # what this process has said already


def deal_folds(same: NDArray[np.bool_], folds: int = FOLDS) -> NDArray[np.int64]:
    """Deal pairs into folds, each with as many same and as many different pairs as the others, give or take one.

    Within each kind the folds are consecutive runs of the list, so LFW's list sorted by kind gets LFW's own folds.
    Who is on the images is not looked at: a person may come into two folds.

    Args:
        same: `[P]`, whether a pair shows one person.
        folds: how many; where there are fewer pairs of a kind, as many as these.

    Returns:
        `[P]`, fold of each pair, from 0.
    """
    folds = min(folds, int(same.sum()), int((~same).sum()))
    fold = np.zeros(len(same), np.int64)
    for kind in (True, False):
        at = np.flatnonzero(same == kind)
        fold[at] = np.arange(len(at)) * folds // len(at)
    return fold


def sound_folds(
    same: NDArray[np.bool_], folds: NDArray[np.int64], what: str, by_name: bool
) -> NDArray[np.int64]:
    """Keep folds that are what verification takes them for, and deal the pairs anew where they are not.

    A fold's threshold is chosen on the other folds, so every fold has to have the same mix of same and different
    pairs: n same and m different in each, give or take one. Folds with names of their own are also kept where the
    share of same-person pairs in each is within 0.1 of the list's. Whatever is not exact is said in one line. Dealt
    anew, there are as many folds as the list has, or ten where it has one.

    Args:
        same: `[P]`, whether a pair shows one person; some do and some do not.
        folds: `[P]`, as the list has them.
        what: the list, for messages.
        by_name: every pair names its fold; else they are so many consecutive pairs each.

    Returns:
        `[P]`, fold of each pair, from 0.
    """
    labels, fold = np.unique(folds, return_inverse=True)
    counts = np.stack([np.bincount(fold[same == kind], minlength=len(labels)) for kind in (True, False)])
    several = len(labels) > 1 and bool(counts.min() > 0)
    if several and bool((np.ptp(counts, axis=1) <= 1).all()):
        return fold.astype(np.int64)
    seen = (
        f"{len(labels)} folds with {_span(counts[0])} same and {_span(counts[1])} different pairs"
        if len(labels) > 1
        else "one fold"
    )
    share = counts[0] / counts.sum(0)
    if several and by_name and bool((abs(share - same.mean()) <= _MIX).all()):
        _log.warning("%s: its folds are not of one size (%s): kept as they are.", what, seen)
        return fold.astype(np.int64)
    dealt = deal_folds(same, len(labels) if len(labels) > 1 else FOLDS)
    if dealt.max() > 0:
        _log.warning(
            "%s: its folds are not of so many same and so many different pairs each (%s): the %d same and %d different "
            "pairs are dealt anew into %d folds, each with as many of either.",
            what, seen, same.sum(), (~same).sum(), dealt.max() + 1,
        )  # fmt: skip
    return dealt


def warn_of_mix(same: NDArray[np.bool_], what: str) -> None:
    """Warn where guessing gets clearly more than a half right: 55 % and more.

    Args:
        same: `[P]`, whether a pair shows one person.
        what: the list, for the message.
    """
    most = max(same.mean(), 1 - same.mean())
    if most >= 0.5 + _UNEVEN:
        _log.warning(
            "%s: %d same and %d different pairs: an accuracy of %.0f %% is had by giving every pair one answer, not "
            "50 %%; AUC, EER and TAR@FAR do not depend on the mix.",
            what, same.sum(), (~same).sum(), 100 * most,
        )  # fmt: skip


def warn_of_repeats(
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    same: NDArray[np.bool_],
    folds: NDArray[np.int64],
    what: str,
    where: Callable[[int], str],
) -> None:
    """Warn how many pairs are of one image, are listed twice, or are listed as same and as different.

    The first of each kind is named.

    Args:
        a: `[P]`, number of each pair's first image.
        b: `[P]`, of its second.
        same: `[P]`, whether it shows one person.
        folds: `[P]`, fold of each.
        what: the list, for the message.
        where: names a pair by its number from 0, such as `line 12`.
    """
    ends = np.sort(np.stack([a, b], 1), 1)
    which = np.unique(ends, axis=0, return_inverse=True)[1].ravel()
    said = []
    alone = np.flatnonzero(a == b)
    if len(alone):
        said.append(f"pairs of an image with itself: {len(alone)}, the first {where(int(alone[0]))}")
    if leaks := _with_several(which, folds):
        said.append(
            "pairs that are listed twice, in two folds, and help to choose their own threshold: "
            f"{len(leaks)}, the first {_both(leaks[0], where)}"
        )
    if both := _with_several(which, same.astype(np.int64)):
        said.append(
            f"pairs listed as the same person and as different ones: {len(both)}, the first {_both(both[0], where)}"
        )
    if said:
        _log.warning("%s: the metrics of its %d pairs mislead (%s).", what, len(same), "; ".join(said))
    elif again := len(which) - len(np.unique(which)):
        first = _with_several(which, np.arange(len(which)))[0]
        line = (
            f"{what}: of its {len(same)} pairs {again} are listed again in their fold, and count twice, the first "
            f"{_both(first, where)}."
        )
        if line not in _told:  # a comparison reads one list for each method
            _told.add(line)
            _log.info("%s", line)


def _with_several(which: NDArray[np.int64], value: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return two places of each pair that comes with more than one value, in the list's order."""
    _, first = np.unique(which, return_index=True)
    earlier = first[which]  # where each pair is met first
    others = np.flatnonzero(value != value[earlier])
    _, at = np.unique(which[others], return_index=True)
    return sorted((int(earlier[n]), int(n)) for n in others[at])


def _both(places: tuple[int, int], where: Callable[[int], str]) -> str:
    return " and ".join(where(place) for place in places)


def _span(counts: NDArray[np.int64]) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} … {high}"
