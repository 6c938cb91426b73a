"""Measure methods and attacks, and keep what was measured."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Measurer:
    """Measures methods and attacks, and keeps what it measured, so that nothing is measured twice."""

    subjects: Subjects
    judges: Mapping[str, Judge]
    bootstrap: int
    parts: Path

    def clean(self) -> dict[str, float]:
        """Let the judges look at clean faces, or read what they found before."""
        path, had = measured(self.parts, "clean", clean_key(self.subjects))
        part = measure_clean(self.subjects, [*self.judges.values()], had)
        if part.keys() != had.keys():
            keep(path, part)
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
        tick: Callable[[int], None] = no_tick,
    ) -> dict[str, float]:  # fmt: skip
        """Measure one attack on one method, or read what was measured before; empty where it cannot be mounted."""
        data = candidate.setting.data
        if not applies(attack, data):
            return {}
        key = part_key(self.subjects, data, attack)
        path, had = measured(self.parts, jobs.slug(f"{candidate.label}_{label}"), key)
        looking = [*self.judges.values()], [*recognisers.values()]
        part = measure(self.subjects, data, attack, *looking, had, tick)
        if part.keys() != had.keys():
            keep(path, part)
            log.info("%s, %s: measured on %d images", candidate.label, label, len(self.subjects))
        return privacy_metrics(part, self.subjects, self.judges, recognisers, self.bootstrap)
