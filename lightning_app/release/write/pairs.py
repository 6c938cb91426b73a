"""The list of pairs of a release to verify on: the reader's, by pseudonym."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from datamodules.readers.base import FaceReader
from datamodules.verification.pair_list import PairList
from datamodules.verification.readers import pairs_of
from lightning_app.release.format.pairs import pairs_text
from lightning_app.release.format.pseudonyms import Pseudonyms
from lightning_app.release.write.journal import Done
from lightning_app.release.write.work import Work


def pairs_of_plan(work: Work, bad: Mapping[int, Done]) -> str:
    """Return what `pairs.txt` of a release holds; nothing where its reader has no list of pairs.

    Args:
        work: of the release.
        bad: what was refused, by place in the plan.

    Raises:
        ValueError: an image of the list was refused.
    """
    if not isinstance(getattr(work.reader, "pairs", None), PairList):
        return ""
    plan = work.plan
    if bad:
        place, done = next(iter(bad.items()))
        raise ValueError(
            f"{len(bad)} images of the list of pairs are refused, such as "
            f"{work.reader.name(plan.index(place))} ({done.reason}): without them its folds are others; mend them, or "
            "take their pairs off the list"
        )
    names = [""] * len(plan)
    for place in range(len(plan)):
        names[plan.index(place)] = PurePath(plan.label(place)).stem
    return _text(work.reader, names)


def pairs_of_release(reader: FaceReader, pseudonyms: Pseudonyms) -> str:
    """Return what `pairs.txt` of a release of a set of pairs must hold.

    Args:
        reader: with an attribute `pairs`.
        pseudonyms: the owner's.

    Raises:
        ValueError: the pairs cannot be used.
    """
    people = [reader.identities[label] for label in reader.labels.tolist()]
    return _text(
        reader, [pseudonyms.image(person, reader.stable_name(index)) for index, person in enumerate(people)]
    )


def _text(reader: FaceReader, names: list[str]) -> str:
    pairs = pairs_of(reader)
    listed = zip(pairs.a.tolist(), pairs.b.tolist(), pairs.same.tolist(), pairs.folds.tolist(), strict=True)
    return pairs_text((names[a], names[b], same, fold) for a, b, same, fold in listed)
