"""What is kept of how each run and search of an ablation was made, and whether it was made as now asked for."""

from __future__ import annotations

import logging
from pathlib import Path

from lightning_app.masks import load_mask, mask_hash
from lightning_app.studies import runner as jobs
from lightning_app.studies.ablate.plan import AblationPlan, AblationRun

log = logging.getLogger("faceveil")


def describe_run(job: AblationRun, mask: Path | None) -> dict[str, object]:
    """Return what a run or a search is made with: its arguments, the mask, and the hashes of its files.

    Args:
        job: the run, or the search.
        mask: file of the mask that it is under; None where there is none.
    """
    return {
        "args": list(job.args),
        "mask_hash": None if mask is None else mask_hash(load_mask(mask)),
        jobs.FILES: jobs.named_files(job.args),
    }


def check_records(plan: AblationPlan) -> None:
    """Refuse what was made otherwise: before hours of training, not after.

    Args:
        plan: of the ablation.

    Raises:
        ValueError: a run or a search has a record that says something else.
    """
    old: list[str] = []
    for label, variant in plan.variants.items():
        mask = plan.mask(label)
        wanted: list[tuple[AblationRun, Path | None, Path | None]] = []  # what is made with which mask
        if variant.search is not None:
            wanted.append((plan.search_job(label), mask, None))
        if variant.search is None or (mask is not None and mask.is_file()):
            wanted += [(job, plan.folder / job.run, mask) for job in plan.jobs(label, mask)]
        for job, made, under in wanted:
            assert made is not None
            jobs.check_record(plan.record(job), made, describe_run(job, under))
            old += [job.run] if jobs.is_old(plan.record(job), made) else []
    if old:
        log.warning(
            "%s: %d runs and searches are of an earlier version, which did not keep what their configs and checkpoints "
            "held; they are taken as they are (%s).", plan.folder, len(old), ", ".join(old),
        )  # fmt: skip
