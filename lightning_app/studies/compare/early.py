"""What a comparison checks before its first training, and how long it will take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from datamodules.drawing.reader import DrawnFaces
from datamodules.precomputed import check_pictures, precomputed_of
from lightning_app.attacks import Attack, Unshuffle
from lightning_app.cli.configs import find_config
from lightning_app.cli.fit_config import FitSettings, read_fit_settings
from lightning_app.core.files import is_plain_name
from lightning_app.evaluation import Judge
from lightning_app.evaluation.judges.holes import check_embeddings, check_numbers, in_a_line
from lightning_app.evaluation.judges.named import known_name
from lightning_app.evaluation.privacy import check_perceptual
from lightning_app.report.columns import RELEASED
from lightning_app.runs.folder import LAST
from lightning_app.studies import runner as jobs
from lightning_app.studies.compare.attackers import (
    TRAINED,
    attacker_args,
    attacker_run,
    check_attacker,
    check_folders,
    meets,
    teacher_args,
)
from lightning_app.studies.compare.candidate import ComparedMethod
from lightning_app.studies.compare.judges import OWN, GivenJudge, JudgeMaker
from lightning_app.studies.compare.methods import AttackerRun, Linking, Method
from lightning_app.studies.compare.sizes import check_size, check_sizes
from lightning_app.studies.compare.teachers import check_teacher_early
from lightning_app.studies.config_place import said_at
from lightning_app.studies.estimate import Planned, estimate
from lightning_app.studies.preflight import check_checkpoint, check_fit, check_room

_SIDES = 16, 1024  # of faces that can be drawn, in px


def check_asked(
    name: str, methods: Mapping[str, Method], judges: Mapping[str, GivenJudge], recognisers: Mapping[str, GivenJudge],
    attacks: Mapping[str, Attack], learners: list[AttackerRun], linking: list[Linking], examples: int, bootstrap: int,
) -> None:  # fmt: skip
    """Refuse what cannot be meant, before anything is read or trained.

    Args:
        name: the comparison's name, and its folder's.
        methods: label -> method.
        judges: label -> who tries to recognise people.
        recognisers: label -> who compares two faces as seen.
        attacks: label -> attack.
        learners: attackers that are trained.
        linking: linkers that are trained.
        examples: faces shown in the report.
        bootstrap: resamples.

    Raises:
        FileNotFoundError: a config or a checkpoint is not there.
        ValueError: an argument cannot be used.
    """
    if not is_plain_name(name):
        raise ValueError(f"name: {name!r}; give a plain name, the folder is runs/<name>")
    if not methods:
        raise ValueError("methods: none given; give at least one, label: {config: NAME.yaml}")
    if examples < 1:
        raise ValueError(f"examples: {examples}; give at least 1")
    if bootstrap < 0:
        raise ValueError(f"bootstrap: {bootstrap}; give the number of resamples, 0 for none")
    named = {"methods": [*methods], "judges": [*judges, *(one.label for one in linking)],
             "recognisers": [*recognisers],
             "attacks": [RELEASED, *attacks, *(one.label for one in learners)],
             "attacks and linkers": [RELEASED, *attacks, *(one.label for one in (*learners, *linking))]}  # fmt: skip
    for kind, labels in named.items():
        jobs.check_labels(kind, labels)
        wrong = [label for label in labels if not label.strip() or "/" in label]
        if wrong:
            raise ValueError(f"{kind}: {wrong[0]!r} is no label; give one without a slash")
    for linker in linking:
        if linker.teacher not in judges:
            raise ValueError(
                f"{linker.label}.teacher: {linker.teacher!r}; give the label of the judge whose embeddings it learns: "
                f"{', '.join(judges) or 'there are none'}"
            )
    for config in [m.config for m in methods.values()] + [one.config for one in (*learners, *linking)]:
        find_config(config)
    for kind, given in (("judges", judges), ("recognisers", recognisers)):
        for label, one in given.items():
            special = one in methods or (one == OWN and kind == "recognisers")
            if isinstance(one, str) and not special and not known_name(one):
                raise FileNotFoundError(
                    f"{kind}.{label} {one}: no such checkpoint, nor a method of that label; methods are "
                    f"{', '.join(methods)}"
                )


def check_early(
    candidates: Mapping[str, ComparedMethod],
    maker: JudgeMaker,
    judges: Mapping[str, GivenJudge],
    recognisers: Mapping[str, GivenJudge],
    attacks: Mapping[str, Attack],
    attackers: Sequence[AttackerRun],
    seed: int,
    device: torch.device,
    before: Mapping[str, Unshuffle] | None = None,
    brought: AttackerRun | None = None,
) -> list[str]:
    """Check all that can be checked before the first training, and estimate how long it takes.

    Args:
        candidates: the methods.
        maker: judges and recognisers.
        judges: as the config has them.
        recognisers: likewise.
        attacks: those that are the same for all methods.
        attackers: what is trained for each; a linker among them.
        seed: of their runs.
        device: where steps are timed.
        before: attacker -> what puts channels back before it.
        brought: whose checkpoint a method may bring (`Method.restorer`); it is not trained there.

    Returns:
        Lines that say how long the runs that are missing will take, and how that is known.

    Raises:
        FileNotFoundError, ValueError, OSError: something would fail later; begins with where it stands in the config.
    """
    check_folders(candidates, attackers)
    check_perceptual(next(iter(candidates.values())).setting.data.size)
    for kind, given in (("judges", judges), ("recognisers", recognisers)):
        for label, who in given.items():
            _check_judge(f"{kind}.{label}", who, candidates, maker)
    check_sizes(candidates, attacks)
    planned = [one for c in candidates.values() if (one := _recogniser(c)) is not None]
    for attacker in attackers:
        if isinstance(attacker, Linking):
            check_teacher_early(attacker, judges, candidates, maker, seed)
        more = teacher_args(attacker, judges, candidates)
        met = {
            label: one
            for label, one in candidates.items()
            if not (one.method.restorer and brought is not None and attacker.label == brought.label)
        }
        planned += _attackers(attacker, met, seed, (before or {}).get(attacker.label), more)
    first = next(iter(candidates.values()))
    students = {one.student: one for one in reversed(attackers) if isinstance(one, Linking)}
    for linker in students.values():  # the first of each: its ceiling is that of those like it
        check_attacker(first, linker, seed, teacher_args(linker, judges, candidates), clean=True)
        if not (attacker_run(first, linker, clean=True) / LAST).is_file():
            args = attacker_args(first, linker, seed, clean=True)
            planned.append(Planned(f"{linker.label} of clean faces", _settings(linker, args)))
    check_room(first.folder, [one.setting for one in planned])
    return estimate(planned, first.folder.parent, device)


def _check_judge(
    where: str, who: GivenJudge, candidates: Mapping[str, ComparedMethod], maker: JudgeMaker
) -> None:
    first = next(iter(candidates.values())).setting.data
    if who == OWN:
        return
    if isinstance(who, str) and who in candidates:
        method = candidates[who]
        if not method.method.train:
            raise ValueError(f"{where}: {who} has no recogniser (train: false); name another")
        if not method.setting.data.desensitizer.is_image:
            raise ValueError(
                f"{where}: the recogniser of {who} takes what that method releases, which is no picture; name another"
            )
        return
    with said_at(where):
        judge = maker.made(who, first.size)
        _check_embeds(judge, first.size, maker.device)


@torch.no_grad()
def _check_embeds(judge: Judge, size: int, device: torch.device) -> None:
    """Let a judge embed two drawn faces: what it raises may be anything, for it may be somebody else's."""
    drawn = DrawnFaces(2, 1, min(max(_SIDES[0], size), _SIDES[1])).__getitems__(range(2))["image"]
    faces = drawn.to(device).float() / 255
    try:
        check_numbers(check_embeddings(judge(faces), len(faces)))
    except Exception as error:
        raise ValueError(
            f"it cannot embed two drawn faces of {faces.shape[-1]} px ({in_a_line(error)}); mend it, or leave it out"
        ) from error


def _recogniser(candidate: ComparedMethod) -> Planned | None:
    """Check a method's own run; return it where it is still to be trained."""
    method, where = candidate.method, f"methods.{candidate.label}"
    learns = method.train and method.checkpoint is None and not jobs.finished(candidate.run, candidate.figure)
    check_fit(where, candidate.setting, learns)
    if method.checkpoint is not None and method.train:
        check_checkpoint(where, method.config, candidate.setting, method.checkpoint)
    return Planned("recogniser", candidate.setting) if learns else None


def _attackers(
    attacker: AttackerRun,
    candidates: Mapping[str, ComparedMethod],
    seed: int,
    before: Unshuffle | None,
    more: list[str],
) -> list[Planned]:
    """Check what trains an attacker on each method; return the runs that are still to be trained."""
    of_pictures: FitSettings | None = None
    planned = []
    checked = False
    for candidate in candidates.values():
        if not candidate.setting.desensitizer or not (
            isinstance(attacker, Linking) or meets(candidate, attacker, seed, before)
        ):
            continue
        check_attacker(candidate, attacker, seed, more, before=before)
        pictures = candidate.setting.data.desensitizer.is_image
        # of pictures the same but for the desensitizer, which is checked by itself; channels make a step longer
        read = of_pictures if pictures else None
        if read is None:
            read = _settings(attacker, attacker_args(candidate, attacker, seed, before=before))
        of_pictures = read if pictures else of_pictures
        with said_at(f"{attacker.label} on methods.{candidate.label}"):
            check_size(read.data.size, candidate.setting.data.size)
        if precomputed_of(candidate.setting.data.desensitizer) is not None:
            with said_at(f"{attacker.label} on methods.{candidate.label}"):
                check_pictures(candidate.setting.data.desensitizer, read.data.reader)
        if not (checked or jobs.finished(attacker_run(candidate, attacker), TRAINED)):
            checked = True
            with said_at(attacker.label):
                _check_begins(read)
        if not (attacker_run(candidate, attacker) / LAST).is_file():
            planned.append(Planned(attacker.label, read))
    return planned


def _check_begins(setting: FitSettings) -> None:
    """Check what an attacker looks through while it is trained, which it reads once `fit` begins."""
    check = getattr(setting.model, "check_fit", None)
    if check is not None:
        check(setting.data)


def _settings(attacker: AttackerRun, args: list[str]) -> FitSettings:
    with said_at(attacker.label):
        read = read_fit_settings(args)
    check_fit(attacker.label, read)
    return read
