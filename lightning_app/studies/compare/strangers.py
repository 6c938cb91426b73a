"""Whom the methods of a comparison are verified on, and that no attacker has learnt from those."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from datamodules.readers.base import FaceReader
from lightning_app.attacks import Attack, TrainedRestorer
from lightning_app.cli.fit_config import read_fit_settings, saved_reader
from lightning_app.models.known import Untrusted
from lightning_app.studies.compare.attackers import attacker_args, known_to
from lightning_app.studies.compare.candidate import Candidate
from lightning_app.studies.compare.methods import Restorer

log = logging.getLogger("faceveil")
_AT_A_TIME = 64  # images read for their hashes


def check_same_people(candidates: Mapping[str, Candidate]) -> None:
    """Refuse methods that are verified on different pairs: their figures could not be compared.

    Raises:
        ValueError: names the first two that differ.
        FileNotFoundError: a list or its images are not there.
    """
    first: tuple[str, list[Any]] | None = None
    for label, candidate in candidates.items():
        verification = candidate.setting.verification
        assert verification is not None
        reader = verification.open(candidate.setting.data)
        pairs = getattr(reader, "pairs", None)
        about = [reader.size, getattr(reader, "crop", None), getattr(pairs, "names", None)]
        about += [getattr(pairs, key).tolist() for key in ("a", "b", "same", "folds")] if pairs else []
        if first is None:
            first = label, about
        elif first[1] != about:
            raise ValueError(
                f"methods.{label} is verified on other pairs, crop or size than methods.{first[0]}: give all methods "
                "the same callbacks.LFWVerification and size"
            )


def warn_of_known_people(
    candidates: Mapping[str, Candidate], attacks: Mapping[str, Attack], restorer: Restorer | None, seed: int
) -> None:
    """Say so where an attacker has learnt from people whose images are attacked: it would look better than it is.

    Args:
        candidates: label -> method; all are verified on the same images.
        attacks: label -> attack.
        restorer: the attacker that is trained for each method, if any.
        seed: of its runs.

    Raises:
        FileNotFoundError, ValueError: the verification's list or its images cannot be read, or the config beside an
            attacker's checkpoint names a class that is not trusted.
    """
    first = next(iter(candidates.values())).setting
    assert first.verification is not None
    people = set(first.verification.open(first.data).identities)
    learnt: dict[str, Callable[[], Sequence[str]]] = {
        label: partial(_known_to, attack, first.classes) for label, attack in attacks.items()
    }
    for label, candidate in candidates.items():
        if candidate.method.restorer is not None:
            learnt[f"methods.{label}.restorer"] = partial(known_to, candidate, restorer, seed)
        elif restorer is not None and candidate.setting.desensitizer is not None:
            learnt.setdefault(restorer.label, partial(known_to, candidate, restorer, seed))
    for name, known in learnt.items():
        try:
            those = set(known())
        except Untrusted as error:  # for the user to decide, before anything is trained
            raise ValueError(f"{name}: {error}") from error
        except (ValueError, OSError) as error:
            log.warning(
                "%s: whether it has learnt from people who are attacked cannot be checked (%s).", name, error
            )
            continue
        if those and not people:
            log.warning(
                "%s: whether it has learnt from people who are attacked cannot be checked: %s does not tell who is on "
                "its images.", name, first.verification.name,
            )  # fmt: skip
        elif shared := those & people:
            log.warning(
                "%s: %d of the %d people who are attacked are among those it has learnt from: it looks better than it "
                "is. Give it other people's faces.", name, len(shared), len(people),
            )  # fmt: skip


def _known_to(attack: Attack, trust: Collection[str]) -> Sequence[str]:
    """Name the identities that an attack has learnt from; those of a trained network stand in its run's config."""
    trained = attack if isinstance(attack, TrainedRestorer) else getattr(attack, "then", None)
    if not isinstance(trained, TrainedRestorer):
        return attack.people()
    return [*attack.people(), *saved_reader(trained.restorer.path.parent.parent, trust).identities]


def check_strangers(candidate: Candidate, attackers: Sequence[Restorer], seed: int) -> None:
    """Refuse attackers that would learn from people who are attacked, by name or by picture.

    Args:
        candidate: a method; all are verified on the same images, and an attacker's people are the same for all.
        attackers: what is trained for each.
        seed: of their runs.

    Raises:
        FileNotFoundError, ValueError: somebody is among both, or a set cannot be read.
    """
    assert candidate.setting.verification is not None
    attacked = candidate.setting.verification.open(candidate.setting.data) if attackers else None
    found: dict[str, tuple[set[str], int]] = {}  # attackers mostly learn from the same people
    for attacker in attackers:
        assert attacked is not None
        setting = read_fit_settings(attacker_args(candidate, attacker, seed))
        key = json.dumps(setting.about["data"]["init_args"].get("reader"), default=str)
        if key not in found:
            found[key] = in_common(setting.data.reader.open(), attacked)
        shared_people, shared_images = found[key]
        if shared_people or shared_images:
            raise ValueError(
                f"{attacker.label}: {len(shared_people)} of the people who are attacked, and {shared_images} of their "
                f"images, are among those it would learn from{_named(shared_people)}: give it other people's faces"
            )


def in_common(one: FaceReader, other: FaceReader) -> tuple[set[str], int]:
    """Find who and what is in two sets of faces.

    Args:
        one: faces.
        other: faces.

    Returns:
        Names of people in both, and how many images of `other` are in `one`, by the SHA-256 of their pixels.
    """
    theirs = _hashes(one)
    return set(one.identities) & set(other.identities), sum(digest in theirs for digest in _hashes(other))


def _hashes(reader: FaceReader) -> set[str]:
    found = set()
    for rows in torch.arange(len(reader)).split(_AT_A_TIME):
        images = reader.__getitems__(rows.tolist())["image"]
        found |= {hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images}
    return found


def _named(people: set[str]) -> str:
    return f" ({', '.join(sorted(people)[:3])}{', …' if len(people) > 3 else ''})" if people else ""
