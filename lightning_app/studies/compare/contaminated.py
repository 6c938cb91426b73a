"""Judges that were trained on the people who are attacked: what they say of a method is contaminated."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

from datamodules.readers.base import FaceReader
from lightning_app.cli.fit_config import saved_reader
from lightning_app.core.text_file import composed
from lightning_app.evaluation import RecogniserJudge
from lightning_app.evaluation.judges.named import NAMES
from lightning_app.studies.compare.attackers import home_of
from lightning_app.studies.compare.candidate import ComparedMethod
from lightning_app.studies.compare.judges import OWN, GivenJudge
from lightning_app.studies.compare.methods import Linking

log = logging.getLogger("faceveil")
_WORD = "contaminated"
_UNKNOWN = "whether it was trained on people who are attacked cannot be checked"


def contaminated(
    given: Mapping[str, Mapping[str, GivenJudge]],
    linking: Sequence[Linking],
    candidates: Mapping[str, ComparedMethod],
) -> dict[str, str]:
    """Find judges whose recogniser was trained on people who are attacked, by name, and warn of each in a line.

    Of a judge that is no recogniser of ours, such as one in ONNX, nothing is known, and nothing is said.

    Args:
        given: `judges` or `recognisers` -> label -> who looks.
        linking: linkers, which learn from a judge.
        candidates: the methods; all are verified on the same images.

    Returns:
        Where it stands in the config, `judges.LABEL` -> what is contaminated; a linker stands under `judges` too. One
        of which it cannot be checked stands there with the reason, and is not warned of.
    """
    first = next(iter(candidates.values())).setting
    assert first.verification is not None
    people = set(map(composed, first.verification.open(first.data).identities))
    found: dict[str, str] = {}
    for kind, judges in given.items():
        for label, who in judges.items():
            said = _said(who, candidates, people, first.classes)
            if said:
                found[f"{kind}.{label}"] = said
    for linker in linking:
        if (known := found.get(f"judges.{linker.teacher}")) is not None:
            found[f"judges.{linker.label}"] = f"its teacher {linker.teacher}: {known}"
    for where, said in found.items():
        (log.warning if _WORD in said else log.info)("%s: %s.", where, said)
    return found


def _said(
    who: GivenJudge, candidates: Mapping[str, ComparedMethod], people: Collection[str], trust: Collection[str]
) -> str:
    try:
        reader = _reader(who, candidates, trust)
        known = set() if reader is None else {*map(composed, reader.identities)}
    except (ValueError, OSError) as error:
        return f"{_UNKNOWN} ({error})"
    if known and not people:
        return f"{_UNKNOWN}: the verification set does not tell who is on its images"
    shared = len(known.intersection(people))
    if not shared:
        return ""
    return f"{_WORD}: {shared} of the {len(people)} people who are attacked are among those it was trained on"


def _reader(
    who: GivenJudge, candidates: Mapping[str, ComparedMethod], trust: Collection[str]
) -> FaceReader | None:
    """Return the set that a judge's recogniser was trained on; None where it is no recogniser of ours."""
    if isinstance(who, str):
        if who == OWN or who in NAMES:  # of a method's own, `fit` has warned
            return None
        method = candidates.get(who)
        if method is not None and method.method.checkpoint is None:
            return method.setting.data.reader
        return saved_reader(home_of(who if method is None else str(method.method.checkpoint)), trust)
    return saved_reader(home_of(who.facts.path), trust) if isinstance(who, RecogniserJudge) else None
