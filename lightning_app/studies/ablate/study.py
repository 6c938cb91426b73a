"""The study behind `ablate`: a mask for each variant, its runs, and the table of what is done so far."""

from __future__ import annotations

import logging
from pathlib import Path

from lightning.pytorch.loggers import Logger

from lightning_app.core.progress import progress_bar
from lightning_app.distributed.device import choose_device
from lightning_app.runs.send import every_logger
from lightning_app.studies import runner as jobs
from lightning_app.studies.ablate.early import cells_of, check_cells, check_plan
from lightning_app.studies.ablate.plan import AblationPlan, AblationRun, System, Variant
from lightning_app.studies.ablate.records import check_records, describe_run
from lightning_app.studies.ablate.report import write_report

log = logging.getLogger("faceveil")


def ablate(
    name: str,
    variants: dict[str, Variant],
    systems: dict[str, System],
    search: str = "search_mask.yaml",
    seeds: list[int] | None = None,
    args: list[str] | None = None,
    figures: dict[str, str] | None = None,
    logger: Logger | list[Logger] | None = None,
    runs: str = "runs",
    masks: str = "masks",
    accuracy: str = "lfw/accuracy",
) -> None:
    """Train or verify every system under every variant, one run after the other, into one table.

    Each run is an ordinary `fit` or `validate` in `<runs>/<name>/`, and in the W&B group `<name>`. A run that
    fails does not stop the others; given again, the command does only what is missing and goes on with a run
    that was killed. `jobs/` keeps what each was made with: its arguments, the mask, and the SHA-256 of its configs
    and checkpoints. In `<runs>/<name>/`: `metrics.json`, `ablation.png` (error bars: standard deviation over
    seeds), `logs/`.

    Args:
        name: the ablation's name: the folder of its runs, the prefix of its masks.
        variants: name → variant, the rows.
        systems: name → system, the columns.
        search: config of `search-mask` that variants with `search` start from.
        seeds: seeds of the runs; each is trained once per seed.
        args: arguments of every run, before the variant's, such as `[--config, overlays/wandb.yaml]`; `{seed}` in one
            is the run's seed.
        figures: further columns of the table: name -> log key of a share of 1, such as `fsm/contribution_all`;
            accuracies are drawn as well.
        logger: loggers by `class_path`; W&B gets the table and the picture, others the numbers.
        runs: folder in which `<name>/` lies.
        masks: folder of masks; a variant's searched mask is `<masks>/<name>-<variant>/mask.png`.
        accuracy: log key of the accuracy in the table, which a finished run has, such as `val/accuracy` of a task.

    Raises:
        FileNotFoundError: a config, mask or checkpoint is not there.
        ChildProcessError: some runs failed; names them and their logs, after all others were done.
        ValueError: a variant with both a search and a mask, a metric named like one of the command's own, or a
            finished run or search that was made otherwise: other arguments, another mask, or a config or
            checkpoint that has changed since.
    """
    plan = AblationPlan(
        Path(runs) / name, variants, systems, seeds or [0], args or [], figures or {}, search, Path(masks),
        accuracy,
    )  # fmt: skip
    check_plan(plan, name, runs)
    check_records(plan)
    for line in check_cells(plan.folder, list(cells_of(plan)), choose_device("auto")):
        log.info("Time: %s", line)
    failed = _do_all(plan)
    write_report(plan.outcome(name, every_logger(logger)), final=True)
    if failed:
        raise ChildProcessError(
            f"{len(failed)} of {plan.steps} steps failed ({', '.join(failed)}): see their logs in "
            f"{plan.folder / 'logs'}; given again, the command does only what is missing"
        )


def _do_all(plan: AblationPlan) -> list[str]:
    """Do what is missing, variant by variant, and report after each; name what failed."""
    failed: list[str] = []
    with progress_bar() as bar:
        task = bar.add_task(plan.folder.name, total=plan.steps)
        for label, variant in plan.variants.items():
            bar.update(task, description=f"{label}: mask")
            mask = plan.mask(label)
            found = variant.search is None or _search(plan, label)
            bar.advance(task)
            own = list(plan.jobs(label, mask))
            for job in own if found else ():
                bar.update(task, description=job.run)
                if not _run(job, mask, plan):
                    failed.append(job.run)
                bar.advance(task)
            if not found:
                failed.append(f"{label}: search-mask")
                bar.advance(task, len(own))
            write_report(plan.outcome(plan.folder.name))
    return failed


def _search(plan: AblationPlan, label: str) -> bool:
    """Search for a variant's mask unless it is there; tell whether it is."""
    mask, job = plan.mask(label), plan.search_job(label)
    assert mask is not None
    jobs.write_record(plan.record(job), mask, describe_run(job, None))
    if not mask.is_file():
        place = ["--name", mask.parent.name, "--output", str(plan.masks)]
        jobs.call([*job.args, *place], plan.folder / "logs" / f"{job.run}.log", plan.folder.name)
    return mask.is_file()


def _run(job: AblationRun, mask: Path | None, plan: AblationPlan) -> bool:
    """Do a run unless it is done, going on where it was killed; tell whether it is done."""
    run = plan.folder / job.run
    jobs.write_record(plan.record(job), run, describe_run(job, mask))
    log_file = plan.folder / "logs" / f"{job.run}.log"
    return jobs.do(job.args, run, log_file, plan.folder.name, figure=plan.accuracy)
