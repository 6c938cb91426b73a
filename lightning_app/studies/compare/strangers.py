"""Whom the methods of a comparison are verified on, and that no attacker has learnt from those."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.readers.base import FaceReader
from lightning_app.attacks import Attack
from lightning_app.cli.fit_config import read_fit_settings, saved_reader
from lightning_app.models.known import Untrusted
from lightning_app.studies.compare.attackers import attacker_args, home_of
from lightning_app.studies.compare.candidate import ComparedMethod
from lightning_app.studies.compare.methods import AttackerRun

log = logging.getLogger("faceveil")
_AT_A_TIME = 64  # images read for what they look like
_SIDE = 16  # px that pictures are compared at
# cosine at that size without the set's mean picture: of LFW-a's photographs of different people 0.954 at most, cut out
# by an oval 0.967; of one that was saved again as JPEG of quality 30 at least 0.998, under an oval 0.982
_SAME = 0.975
_APART = 3.0  # grey levels, root of the mean square at that size: saving again as JPEG makes 1 or 2
_PLAIN = 1.0  # grey levels; what differs by less from its mean and the set's is compared by hash
_ROWS = 4096  # images compared with all attacked ones at a time


def check_same_people(candidates: Mapping[str, ComparedMethod]) -> None:
    """Refuse methods that are verified on different pairs: their metrics could not be compared.

    Raises:
        ValueError: names the first two that differ.
        FileNotFoundError: a list or its images are not there.
    """
    first: tuple[str, list[Any]] | None = None
    for label, candidate in candidates.items():
        verification = candidate.setting.verification
        assert verification is not None
        reader = verification.open(candidate.setting.data)
        pairs = reader.pairs
        description: list[Any] = [reader.size, reader.crop, None if pairs is None else pairs.names]
        description += [getattr(pairs, key).tolist() for key in ("a", "b", "same", "folds")] if pairs else []
        if first is None:
            first = label, description
        elif first[1] != description:
            raise ValueError(
                f"methods.{label} is verified on other pairs, crop or size than methods.{first[0]}: give all methods "
                "the same callbacks.LFWVerification and size"
            )


def check_strangers(
    candidates: Mapping[str, ComparedMethod], attacks: Mapping[str, Attack], learners: Sequence[AttackerRun], seed: int,
    given: AttackerRun | None = None,
) -> list[str]:  # fmt: skip
    """Refuse attackers that have learnt, or would learn, from people who are attacked: by name or by picture.

    They would look better than they are; and a linker that has seen somebody's clean and desensitized face together
    has nothing left to link.

    Args:
        candidates: label -> method; all are verified on the same images.
        attacks: label -> attack.
        learners: what is trained for each method.
        seed: of their runs.
        given: the one of which methods may bring a checkpoint (`Method.restorer`).

    Returns:
        Of whom it cannot be checked, a line each, which is logged too.

    Raises:
        FileNotFoundError, ValueError: somebody is among both; the attacked images cannot be read, or what a learner
            would learn from; or the config beside an attacker's checkpoint names a class that is not trusted.
    """
    first = next(iter(candidates.values()))
    assert first.setting.verification is not None
    attacked = first.setting.verification.open(first.setting.data)
    people, name = set(attacked.identities), first.setting.verification.name
    trust = first.setting.classes
    learnt: dict[str, Callable[[], Learnt]] = {
        label: partial(_learnt_by, attack, trust) for label, attack in attacks.items()
    }
    for label, candidate in candidates.items():
        if candidate.method.restorer is not None:
            learnt[f"methods.{label}.restorer"] = partial(_of_run, home_of(candidate.method.restorer), trust)
    unknown, sources = [], {}
    for label, ask in learnt.items():
        try:
            sources[label] = ask()
        except Untrusted as error:  # for the user to decide, before anything is trained
            raise ValueError(f"{label}: {error}") from error
        except (ValueError, OSError) as error:
            unknown.append(
                f"{label}: whether it has learnt from people who are attacked cannot be checked ({error})."
            )
            continue
        if sources[label].names and not people:
            unknown.append(
                f"{label}: whether it has learnt from people who are attacked cannot be checked: {name} does not tell "
                "who is on its images."
            )
    for one in learners:
        of = next((c for c in candidates.values() if not (one is given and c.method.restorer)), None)
        if of is not None:
            reader = read_fit_settings(attacker_args(of, one, seed)).data.reader
            sources[one.label] = Learnt(set(reader.identities), [reader])
    for line in unknown:
        log.warning(line)
    _refuse(sources, attacked, people)
    return unknown


@dataclass(frozen=True)
class Learnt:
    """From whom an attacker has learnt.

    Attributes:
        names: of people.
        readers: their images, where they are at hand.
    """

    names: set[str]
    readers: list[FaceReader]


def _refuse(sources: Mapping[str, Learnt], attacked: FaceReader, people: set[str]) -> None:
    looks: Looks | None = None
    known: dict[str, int] = {}  # attackers mostly learn from the same images
    for label, source in sources.items():
        shared, images = len(source.names & people), 0
        for reader in source.readers:
            key = f"{type(reader).__qualname__} {sorted(vars(reader).items(), key=str)}"
            if not shared and key not in known:
                looks = Looks.of(attacked) if looks is None else looks
                known[key] = copies(Looks.of(reader.open()), looks)
            images += known.get(key, 0)
        if shared or images:
            found = (
                f"{shared} of the {len(people)} people who are attacked"
                if shared
                else f"{images} of their images (the same, mirrored, or saved again)"
            )
            raise ValueError(
                f"{label}: {found} are among those it learns from: it would look better than it is. Give it other "
                "people's faces"
            )


def _learnt_by(attack: Attack, trust: Collection[str]) -> Learnt:
    """Return from whom an attack has learnt; of a trained network its run's config tells."""
    names, readers = set(attack.people()), [*attack.readers()]
    for path in attack.checkpoints():
        run = _of_run(path.parent.parent, trust)
        names, readers = names | run.names, readers + run.readers
    return Learnt(names, readers)


def _of_run(home: Path, trust: Collection[str]) -> Learnt:
    reader = saved_reader(home, trust)
    return Learnt(set(reader.identities), [reader])


@dataclass(frozen=True)
class Looks:
    """What the images of a set look like.

    Attributes:
        small: `[N,256]` float32, each in grey at 16 × 16 px, without its own mean.
        digests: SHA-256 of every image's pixels.
    """

    small: Tensor
    digests: list[str]

    @classmethod
    def of(cls, reader: FaceReader) -> Looks:
        """Look at all images of a reader."""
        small, digests = [torch.zeros(0, _SIDE**2)], list[str]()
        for rows in torch.arange(len(reader)).split(_AT_A_TIME):
            images = reader.__getitems__(rows.tolist())["image"]
            digests += [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images]
            grey = F.adaptive_avg_pool2d(images.float().mean(1, keepdim=True), _SIDE).flatten(1)
            small.append(grey - grey.mean(1, keepdim=True))
        return cls(torch.cat(small), digests)


def copies(images: Looks, attacked: Looks) -> int:
    """Count the images that are pictures of the attacked set, or their mirror images, however they were saved.

    Pictures are compared without the mean of the attacked ones: what all of a set have in common, such as a black
    frame or an oval, makes none a copy of another.

    Args:
        images: that somebody learns from.
        attacked: the set.
    """
    if not len(attacked.small):
        return 0
    both = torch.cat([attacked.small, attacked.small.unflatten(1, (_SIDE, _SIDE)).flip(-1).flatten(1)])
    common, digests = both.mean(0), set(attacked.digests)
    same = torch.tensor([digest in digests for digest in images.digests], dtype=torch.bool)
    like = [_alike(part - common, both - common).any(1) for part in images.small.split(_ROWS)]
    return int((same | torch.cat([same[:0], *like])).sum())


def _alike(some: Tensor, others: Tensor) -> Tensor:
    """Return which of two sets are one picture, `[N,M]` bool."""
    near = torch.cdist(some, others) < _APART * _SIDE
    return near & ((_unit(some) @ _unit(others).T) > _SAME)


def _unit(small: Tensor) -> Tensor:
    """Bring rows to length 1; to 0 what is next to nothing, of which the direction is a rounding error."""
    length = torch.linalg.vector_norm(small, dim=1, keepdim=True)
    return torch.where(length < _PLAIN * _SIDE, 0.0, small / length.clamp(min=1e-12))
