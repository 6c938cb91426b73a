"""What a comparison has found so far."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from lightning.pytorch.loggers import Logger

from datamodules.drawing.reader import DrawnFaces
from lightning_app.attacks import Attack
from lightning_app.evaluation.privacy import Subjects, applies, pictures_of
from lightning_app.metrics.reidentification import one_of_each
from lightning_app.report.columns import RELEASED, find_metric
from lightning_app.report.compare import Axis, open_on
from lightning_app.report.html import Example
from lightning_app.report.judges import clean_of, standing
from lightning_app.studies.compare.candidate import ComparedMethod
from lightning_app.studies.compare.curves import Curve, budgets, read_curve, why_open

log = logging.getLogger("faceveil")
T = TypeVar("T")
_DRAWN_FIRST = 9000  # number of the first drawn person shown: trained on by no shipped config


@dataclass
class Outcome:
    """What a comparison has found so far.

    Attributes:
        name: the comparison's name, and its folder's.
        folder: where everything goes.
        candidates: label -> method.
        axis: what stands for privacy.
        attacks: labels.
        judges: label -> what it is: a checkpoint, a method, or a judge's description.
        recognisers: label -> the same, or `own`.
        loggers: where copies go.
        command: the command line.
        results: method -> metrics.
        failed: what did not work, in a line each.
        open: method -> attack -> why its metric says 'at least', or why there is none: a loss that still fell, a
            training that failed, a judge that is missing; `RELEASED` is an attack here.
        linkers: labels of the judges that are attackers, trained on each method.
        curves: attacker -> method -> its loss against steps.
        cosine: labels of the judges that compare by cosine.
        examples: method -> faces in each state.
        facts: name -> value, for the page's head.
        private: whether real faces are shown.
        contaminated: where a judge stands in the config -> that it was trained on people who are attacked.
    """

    name: str
    folder: Path
    candidates: Mapping[str, ComparedMethod]
    axis: Axis
    attacks: list[str]
    judges: dict[str, str]
    recognisers: dict[str, str]
    loggers: list[Logger]
    command: str
    results: dict[str, dict[str, float]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    open: dict[str, dict[str, str]] = field(default_factory=dict)
    linkers: list[str] = field(default_factory=list)
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)
    cosine: list[str] = field(default_factory=list)
    examples: dict[str, list[Example]] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    private: bool = False
    contaminated: Mapping[str, str] = field(default_factory=dict)

    def tried(self, what: str, work: Callable[[], T]) -> T | None:
        """Do a step; one that fails is told and kept for the end, and the others go on.

        Args:
            what: the step, for people.
            work: what to do.
        """
        try:
            return work()
        except (ValueError, OSError, RuntimeError) as error:
            line = f"{what}: {' '.join(str(error).split())[:300]}"
            log.error(line)
            self.failed.append(line)
            return None

    def tell(self, line: str) -> None:
        """Note what failed, once.

        Args:
            line: what, and why.
        """
        if line not in self.failed:
            log.error(line)
            self.failed.append(line)

    def leave_open(self, method: str, attack: str, why: str) -> None:
        """Note that an attack may see more of a method than its metric says.

        Args:
            method: label.
            attack: label.
            why: in a few words; nothing is noted where it is empty. Several reasons stand behind each other.
        """
        reasons = self.open.get(method, {}).get(attack, "")
        if why and why not in reasons:
            self.open.setdefault(method, {})[attack] = f"{reasons}; {why}" if reasons else why

    def open_on(self, method: str) -> dict[str, str]:
        """Return why the verdict on a method says 'at least', of those who have a say on the axis: attack -> why.

        Args:
            method: label.
        """
        return open_on(self.open.get(method, {}), self.attacks, self.axis, self.linkers)

    def learnt(self, method: str, attack: str, run: Path) -> None:
        """Note how an attacker was trained on a method: its loss, its budget, and whether more might have helped.

        Args:
            method: label.
            attack: label.
            run: the attacker's folder.
        """
        curve = read_curve(run)
        self.curves.setdefault(attack, {})[method] = curve
        self.leave_open(method, attack, why_open(curve))
        self.facts[f"budget of {attack}"] = budgets(self.curves[attack])

    def scored_by(self) -> tuple[str, str]:
        """Return who makes the second paper's scores: the judge that does best on clean faces, and the clean method.

        Returns:
            Labels of a judge that compares by cosine, linkers left out, and of the first method that hides nothing;
            empty where there is none.
        """
        worth = {
            label: self.metrics.get(f"judge_accuracy/{label}", 0.0) for label in self.cosine
        }  # fmt: skip
        clean = (c.label for c in self.candidates.values() if not c.setting.data.desensitizer.hides)
        return max(worth, key=lambda label: worth[label], default=""), next(clean, "")

    def shows_pictures(self, label: str) -> bool:
        """Return whether what a method releases is a picture by itself.

        Args:
            label: of the method.
        """
        return self.candidates[label].setting.data.desensitizer.is_image

    def count(self, subjects: Subjects) -> None:
        """Note on whom everything is measured."""
        gallery, probes = len(subjects.gallery), len(subjects.probes)
        self.facts |= {"images": str(len(subjects)), "pairs": str(len(subjects.pairs)),
                      "people in the gallery": str(gallery), "faces looked for": str(probes)}  # fmt: skip
        self.metrics |= {"gallery": gallery, "probes": probes, "pairs": len(subjects.pairs)}
        if gallery:
            self.facts["rank-1 by guessing"] = f"{100 / gallery:.2g} %"

    def judged(self, found: Mapping[str, float]) -> None:
        """Note how well the judges tell clean faces apart: what a weak one says of a method is worth little.

        Args:
            found: of `clean_metrics`.
        """
        self.metrics |= found
        for label in self.judges:
            shares = {
                "verification": _share(found, "judge_accuracy", label),
                "rank-1": _share(found, "judge_rank1", label),
            }
            said = ", ".join(f"{name} {share}" for name, share in shares.items() if share)
            if said:
                worth = standing(clean_of(found, {label: ""}).get(label))
                said += f" ({worth})" if worth else ""
                self.facts[f"{label} on clean faces"] = said
                log.info("judge %s on clean faces: %s", label, said)

    @torch.inference_mode()
    def show(
        self, candidate: ComparedMethod, attacks: Mapping[str, Attack | None], subjects: Subjects, count: int,
        real: bool,
    ) -> None:  # fmt: skip
        """Keep example faces of a method: drawn ones, and where asked for those of the verification set.

        An attack that fails on them is told, and has none; the others have theirs.

        Args:
            candidate: the method.
            attacks: label -> attack; None for looking at what is released.
            subjects: of whom real faces are taken.
            count: how many faces.
            real: show the verification set's.
        """
        drawn = DrawnFaces(max(2, count), 1, max(16, subjects.reader.size), first_identity=_DRAWN_FIRST)
        sources = {"": (drawn.__getitems__(range(count))["image"], torch.arange(count))}
        if real:
            people = one_of_each(subjects.labels)
            of = people if len(people) else torch.arange(len(subjects))
            rows = of[torch.linspace(0, len(of) - 1, min(count, len(of))).round().long()]
            sources["verification set: "] = subjects.raw(rows), rows
            self.private = self.private or not subjects.reader.of_nobody
        data, failed = candidate.setting.data, set[str]()
        for head, (raw, index) in sources.items():
            self.examples.setdefault(
                f"{head}clean faces", [Example("not desensitized", raw.float().cpu() / 255)]
            )
            if data.desensitizer.elsewhere and not head:  # nobody has made anything of drawn faces
                self.examples[candidate.label] = []
                continue
            desensitized = data.desensitized(
                raw.to(subjects.device), index.to(subjects.device), data.as_trained(len(raw)), subjects.reader
            )
            shown = []
            for label, attack in attacks.items():
                if label in failed or (attack is None and label != RELEASED) or not applies(attack, data):
                    continue
                work = partial(pictures_of, data, desensitized, attack, raw.shape[2:])
                if (made := self.tried(f"{candidate.label}, {label}: examples", work)) is None:
                    failed.add(label)
                    continue
                shown.append(Example(label, made.cpu()))
            self.examples[f"{head}{candidate.label}"] = shown


def _share(found: Mapping[str, float], name: str, label: str) -> str:
    """Write a share in per cent with its interval; empty where it was not measured."""
    one = find_metric(found, name, label)
    if one is None:
        return ""
    interval = "" if one.low is None or one.high is None else f" [{100 * one.low:.1f}, {100 * one.high:.1f}]"
    return f"{100 * one.value:.1f} %{interval}"
