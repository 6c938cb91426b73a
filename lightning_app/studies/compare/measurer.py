"""Measure methods and attacks, and keep what was measured."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from datamodules.face import FaceDataModule
from lightning_app.attacks import Attack
from lightning_app.core.measurement import find, flat
from lightning_app.evaluation import Judge
from lightning_app.evaluation.embed import no_tick
from lightning_app.evaluation.privacy import (
    Subjects,
    applies,
    clean_key,
    keep,
    measure,
    measure_clean,
    measured,
    part_key,
)
from lightning_app.evaluation.privacy_metrics import clean_metrics, privacy_metrics
from lightning_app.studies import runner as jobs
from lightning_app.studies.compare.candidate import ComparedMethod

log = logging.getLogger("faceveil")


@dataclass
class Holed:
    """Who could not look at faces.

    Attributes:
        judges: label -> error.
        recognisers: label -> error.
    """

    judges: dict[str, str] = field(default_factory=dict)
    recognisers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurer:
    """Measures methods and attacks, and keeps what it measured, so that nothing is measured twice."""

    subjects: Subjects
    judges: Mapping[str, Judge]
    bootstrap: int
    parts: Path

    def clean(self, failed: dict[str, str] | None = None) -> dict[str, float]:
        """Let the judges look at clean faces, or read what they found before.

        Args:
            failed: takes label -> error of every judge that raised one.
        """
        path, had = measured(self.parts, "clean", clean_key(self.subjects))
        errors: dict[str, str] | None = None if failed is None else {}
        part = measure_clean(self.subjects, [*self.judges.values()], had, errors)
        if part.keys() != had.keys():
            keep(path, part)
        if failed is not None:
            failed |= _by_label(self.judges, errors or {})
        return clean_metrics(part, self.subjects, self.judges, self.bootstrap)

    def with_judge(self, more: tuple[str, Judge] | None) -> Measurer:
        """Return a measurer with one judge more."""
        return self if more is None else replace(self, judges={**self.judges, more[0]: more[1]})

    def ceiling(self, data: FaceDataModule, label: str, judge: Judge) -> dict[str, float]:
        """Let a linker that was trained on clean faces link clean faces, or read what it found before."""
        path, had = measured(self.parts, f"clean_{jobs.slug(label)}", part_key(self.subjects, data, None))
        part = measure(self.subjects, data, None, [judge], [], had)
        if part.keys() != had.keys():
            keep(path, part)
        found = privacy_metrics(part, self.subjects, {label: judge}, {}, self.bootstrap)
        tail = f"/{label}"
        return flat(
            replace(one, key=f"{new}{tail}")
            for old, new in (("verification", "judge_accuracy"), ("rank1", "judge_rank1"))
            if (one := find(found, f"{old}{tail}", tail)) is not None
        )

    def attacked(
        self, candidate: ComparedMethod, attack: Attack | None, label: str, recognisers: Mapping[str, Judge],
        tick: Callable[[int], None] = no_tick, holes: Holed | None = None,
    ) -> dict[str, float]:  # fmt: skip
        """Measure one attack on one method, or read what was measured before; empty where it cannot be mounted.

        Args:
            candidate: the method.
            attack: None for what is released.
            label: of the attack.
            recognisers: label -> who compares two faces as seen.
            tick: called with the number of images done.
            holes: takes the judges and the recognisers that raised an error; None raises the first error.
        """
        data = candidate.setting.data
        if not applies(attack, data):
            return {}
        key = part_key(self.subjects, data, attack)
        path, had = measured(self.parts, jobs.slug(f"{candidate.label}_{label}"), key)
        looking = [*self.judges.values()], [*recognisers.values()]
        errors: dict[str, str] | None = None if holes is None else {}
        part = measure(self.subjects, data, attack, *looking, had, tick, errors)
        if holes is not None:
            holes.judges |= _by_label(self.judges, errors or {})
            holes.recognisers |= _by_label(recognisers, errors or {})
        if part.keys() != had.keys():
            keep(path, part)
            log.info("%s, %s: measured on %d images", candidate.label, label, len(self.subjects))
        return privacy_metrics(part, self.subjects, self.judges, recognisers, self.bootstrap)


def _by_label(who: Mapping[str, Judge], errors: Mapping[str, str]) -> dict[str, str]:
    return {label: errors[one.description] for label, one in who.items() if one.description in errors}
