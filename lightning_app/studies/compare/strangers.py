"""Whom the methods of a comparison are verified on, and that no attacker has learnt from those."""

from __future__ import annotations

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
# cosine at that size: of LFW-a's photographs of different people 0.951 at most, of drawn ones 0.962; of one that was
# saved again as JPEG of quality 30 at least 0.999
_SAME = 0.99
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
    small: Tensor | None = None
    known: dict[str, int] = {}  # attackers mostly learn from the same images
    for label, source in sources.items():
        shared, images = len(source.names & people), 0
        for reader in source.readers:
            key = f"{type(reader).__qualname__} {sorted(vars(reader).items(), key=str)}"
            if not shared and key not in known:
                small = _small(attacked) if small is None else small
                known[key] = _copies(_small(reader.open()), small)
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


def _small(reader: FaceReader) -> Tensor:
    """Return each image in grey at 16 × 16 px, without its mean, of length 1: `[N,256]` float32."""
    found = [torch.zeros(0, _SIDE**2)]
    for rows in torch.arange(len(reader)).split(_AT_A_TIME):
        grey = reader.__getitems__(rows.tolist())["image"].float().mean(1, keepdim=True)
        small = F.adaptive_avg_pool2d(grey, _SIDE).flatten(1)
        found.append(F.normalize(small - small.mean(1, keepdim=True), dim=1))
    return torch.cat(found)


def _copies(images: Tensor, attacked: Tensor) -> int:
    """Count the images that are pictures of the attacked ones, or their mirror images, however they were saved."""
    mirrored = attacked.unflatten(1, (_SIDE, _SIDE)).flip(-1).flatten(1)
    both = torch.cat([attacked, mirrored]).T
    return sum(int(((part @ both) > _SAME).any(1).sum()) for part in images.split(_ROWS))
