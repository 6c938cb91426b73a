"""The runs of a comparison: recognisers, and the attackers and linkers of every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from rich.progress import Progress

from lightning_app.attacks import LinkAttack, Unshuffle
from lightning_app.evaluation import Judge, LinkJudge
from lightning_app.studies.compare.attackers import (
    attacker_run,
    clean_data,
    home_of,
    meets,
    teacher_args,
    train_attacker,
)
from lightning_app.studies.compare.candidate import ComparedMethod
from lightning_app.studies.compare.judges import GivenJudge
from lightning_app.studies.compare.measurer import Measurer
from lightning_app.studies.compare.methods import AttackerRun, Linking
from lightning_app.studies.compare.outcome import Outcome
from lightning_app.studies.compare.teachers import check_teacher, linker_settings

FAILED = "its training failed"


def train_all(
    candidates: Mapping[str, ComparedMethod], learners: list[AttackerRun], given: AttackerRun | None, seed: int,
    out: Outcome, bar: Progress, before: Mapping[str, Unshuffle],
) -> tuple[set[str], dict[str, dict[str, str]]]:  # fmt: skip
    """Do the runs; tell which recognisers are there, and by method and attacker its trained attackers' checkpoints.

    Args:
        candidates: the methods.
        learners: what is trained for each.
        given: whose checkpoint a method may bring (`Method.restorer`).
        seed: of the runs.
        out: where failures go.
        bar: to be moved on.
        before: attacker -> what puts channels back before it.
    """
    hiding = [
        (c, one) for one in learners for c in candidates.values()
        if not (c.method.restorer and given is not None and one.label == given.label)
        and meets(c, one, seed, before.get(one.label))
    ]  # fmt: skip
    task = bar.add_task("training", total=len(candidates) + len(hiding))
    ready: set[str] = set()
    for label, candidate in candidates.items():
        bar.update(task, description=f"{label}: recogniser")
        if not candidate.method.train:
            bar.advance(task)
            continue
        done = out.tried(f"{label}: its run", candidate.train)
        if done and out.tried(f"{label}: its checkpoint", candidate.facts) is not None:
            ready.add(label)
        elif done is False:
            out.failed.append(f"{label}: its run ({candidate.run})")
        bar.advance(task)
    restorers = {
        label: {given.label: c.method.restorer}
        for label, c in candidates.items() if given is not None and c.method.restorer
    }  # fmt: skip
    for label, found in restorers.items():
        for attack, path in found.items():
            out.learnt(label, attack, home_of(path))
    for candidate, restorer in hiding:
        bar.update(task, description=f"{candidate.label}: {restorer.label}")
        what = f"{candidate.label}: training of {restorer.label}"
        made = out.tried(
            what, partial(train_attacker, candidate, restorer, seed, before=before.get(restorer.label))
        )
        if made:
            restorers.setdefault(candidate.label, {})[restorer.label] = str(made)
            out.learnt(candidate.label, restorer.label, made.parent.parent)
        else:
            out.leave_open(candidate.label, restorer.label, FAILED)
            if not (out.failed and out.failed[-1].startswith(what)):
                out.failed.append(what)
        bar.advance(task)
    bar.update(task, visible=False)
    return ready, restorers


def train_linkers(
    candidates: Mapping[str, ComparedMethod], linkers: Sequence[Linking], who: Mapping[str, GivenJudge],
    measurer: Measurer, seed: int, out: Outcome, before: Mapping[str, Unshuffle],
) -> tuple[dict[str, list[tuple[str, Judge]]], dict[str, float]]:  # fmt: skip
    """Train linkers on each method that hides, and on clean faces; give them as judges, and their ceilings.

    Args:
        candidates: the methods.
        linkers: what to train.
        who: the judges as the config has them.
        measurer: with the judges, the teachers among them.
        seed: of the runs.
        out: what was found.
        before: linker -> what puts channels back before it.

    Returns:
        Method -> labels and judges; and what those of clean faces come to, as `clean_figures` names it.
    """
    links: dict[str, list[tuple[str, Judge]]] = {}
    ceilings: dict[str, float] = {}
    for number, linker in enumerate(linkers):
        # the student of clean faces is the same where only what comes before it differs
        alike = (one for one in linkers[:number] if one.student == linker.student)
        found, ceiling = _train_linker(
            candidates, linker, next(alike, linker), who, measurer, seed, out, before.get(linker.label)
        )
        ceilings |= ceiling
        for label, judge in found.items():
            links.setdefault(label, []).append((linker.label, judge))
    return links, ceilings


def _train_linker(
    candidates: Mapping[str, ComparedMethod], linker: Linking, of_clean: Linking, who: Mapping[str, GivenJudge],
    measurer: Measurer, seed: int, out: Outcome, before: Unshuffle | None,
) -> tuple[dict[str, Judge], dict[str, float]]:  # fmt: skip
    teacher = measurer.judges.get(linker.teacher)
    if teacher is None:  # which is told already
        for label, candidate in candidates.items():
            if candidate.setting.desensitizer:
                out.leave_open(label, linker.label, f"judge {linker.teacher}, its teacher, is missing")
        return {}, {}
    # asked again before the first of its runs: a teacher that is a method's recogniser is there only now
    setting = partial(linker_settings, linker, who, candidates, seed)
    if out.tried("training", lambda: check_teacher(linker, setting(), teacher)) is None:
        for label, candidate in candidates.items():
            if candidate.setting.desensitizer:
                out.leave_open(
                    label, linker.label, f"judge {linker.teacher} is not the teacher that it learns from"
                )
        return {}, {}
    more = teacher_args(linker, who, candidates)

    def judge(candidate: ComparedMethod, clean: bool) -> Judge:
        run = train_attacker(candidate, of_clean if clean else linker, seed, more, clean, before)
        if run is None:
            raise ChildProcessError("its run failed")
        return LinkJudge(LinkAttack(run), teacher, None if clean else before).to(measurer.subjects.device)

    first = next(iter(candidates.values()))
    best = out.tried(f"training of {linker.label} on clean faces", partial(judge, first, True))
    ceiling: dict[str, float] = {}
    if best is not None:
        work = partial(measurer.ceiling, clean_data(first, linker, seed), linker.label, best)
        ceiling = out.tried(f"{linker.label} on clean faces", work) or {}
    links: dict[str, Judge] = {}
    for label, candidate in candidates.items():
        if meets(candidate, linker, seed, before):
            made = out.tried(f"{label}: training of {linker.label}", partial(judge, candidate, False))
            if made is None:
                out.leave_open(label, linker.label, FAILED)
                continue
            links[label] = made
            out.learnt(label, linker.label, attacker_run(candidate, linker))
    return links, ceiling
