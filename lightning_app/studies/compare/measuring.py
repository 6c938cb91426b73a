"""Every method, as released and after every attack, measured one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from rich.progress import Progress

from lightning_app.attacks import Attack, TrainedRestorer, Unshuffle
from lightning_app.evaluation import Judge
from lightning_app.evaluation.embed import no_tick
from lightning_app.report.columns import RELEASED, under
from lightning_app.studies.compare.judges import JudgeMaker
from lightning_app.studies.compare.measurer import Holed, Measurer
from lightning_app.studies.compare.outcome import Outcome


def measure_all(
    out: Outcome,
    measurer: Measurer,
    maker: JudgeMaker,
    attacks: Mapping[str, Attack],
    restorers: Mapping[str, Mapping[str, str]],
    links: Mapping[str, Sequence[tuple[str, Judge]]],
    bar: Progress,
    report: Callable[[], None],
    examples: int,
    show_faces: bool,
    before: Mapping[str, Unshuffle],
) -> None:
    """Measure every method as released and after each attack; what fails is told, and the others go on.

    Args:
        out: what was found.
        measurer: where it is measured.
        maker: the recognisers.
        attacks: label -> attack that is the same for all methods.
        restorers: method -> label -> checkpoint of an attacker that was trained on it.
        links: method -> labels and judges that were trained on it.
        bar: to be moved on.
        report: called after each method.
        examples: faces shown of each method.
        show_faces: show faces of the verification set as well.
        before: attacker -> what puts channels back before it.
    """
    subjects = measurer.subjects
    shared = maker.shared(subjects, out)
    states = 1 + len(out.attacks)
    task = bar.add_task("", total=len(subjects) * len(out.candidates) * states)
    for number, (label, candidate) in enumerate(out.candidates.items()):
        bar.update(task, completed=number * len(subjects) * states)
        seeing = shared | maker.own(candidate, subjects, out)
        data = candidate.setting.data
        data.desensitizer.prepare((data.size, data.size))
        mounted = {name: attack.against(data.desensitizer) for name, attack in attacks.items()}
        against: dict[str, Attack | None] = {RELEASED: None}
        against |= {name: attack for name, attack in mounted.items() if attack is not None}
        for learnt, path in restorers.get(label, {}).items():
            kind = before[learnt].going_on if learnt in before else TrainedRestorer
            against[learnt] = out.tried(f"{label}: {path}", partial(kind, path))
        out.results[label] = candidate.utility()
        failed: set[str] = set()
        for attack_label, attack in against.items():
            bar.update(task, description=f"{label}: {attack_label}")
            if attack is None and attack_label != RELEASED:
                out.leave_open(label, attack_label, "its checkpoint could not be read")
                continue
            given, holes = (candidate, attack, attack_label, seeing), Holed()
            work = partial(measurer.attacked, *given, partial(bar.advance, task), holes)
            found = out.tried(f"{label}, {attack_label}", work)
            tell_holes(out, label, attack_label, holes)
            if found is None:
                out.leave_open(label, attack_label, "it could not be measured")
                failed.add(attack_label)
                continue
            if not found and attack_label in restorers.get(label, {}):
                out.leave_open(label, attack_label, "it cannot be mounted on what the method releases")
            numbers = _numbers(out, label, attack_label, found)
            out.results[label] |= {under(attack_label, key): value for key, value in numbers.items()}
            for link in (
                links.get(label, ()) if attack is None else ()
            ):  # that one fails costs nobody's metrics
                more = Holed()
                looking = measurer.with_judge(link)
                linked = out.tried(f"{label}, {link[0]}", partial(looking.attacked, *given, no_tick, more))
                if (error := more.judges.get(link[0])) is not None:
                    out.tell(f"{label}, {link[0]}: {error}")
                if linked is None or error is not None:
                    out.leave_open(label, link[0], "it could not be measured")
                out.results[label] |= _numbers(out, label, link[0], linked or {})
        if RELEASED not in failed:  # what failed is told already, and would fail once more
            shown = {name: attack for name, attack in against.items() if name not in failed}
            out.tried(
                f"{label}: examples", partial(out.show, candidate, shown, subjects, examples, show_faces)
            )
        report()
    bar.update(task, completed=len(subjects) * len(out.candidates) * states)


def tell_holes(out: Outcome, method: str, attack: str, holes: Holed) -> None:
    """Write down who could not look at a method; a judge that could not leaves the verdict open.

    Args:
        out: where it goes.
        method: label.
        attack: label.
        holes: who, and why.
    """
    for label, error in holes.judges.items():
        out.tell(f"judge {label}: {error}")
        out.leave_open(method, attack, f"judge {label}: {error}")
    for label, error in holes.recognisers.items():
        out.tell(f"recogniser {label}: {error}")


def _numbers(out: Outcome, label: str, attack: str, found: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that are numbers; where one is none, the verdict on the method stays open."""
    if any(map(math.isnan, found.values())):
        out.leave_open(label, attack, "a metric of it is not a number")
    return {key: value for key, value in found.items() if not math.isnan(value)}
