"""`python main.py ablate`: the same recognisers under several masks or settings, run after run, into one table."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from lightning_app.cli.configs import find_config
from lightning_app.commands.ablate_report import ACCURACY, TAKEN, AblationOutcome, write_report
from lightning_app.commands.parser import CommandParser, command_parser, parsed
from lightning_app.core.files import is_plain_name
from lightning_app.core.progress import progress_bar
from lightning_app.distributed.device import choose_device
from lightning_app.masks import load_mask, mask_hash
from lightning_app.report import read_metrics
from lightning_app.runs.send import every_logger
from lightning_app.studies import runner as jobs
from lightning_app.studies.early import Cell, check_cells, check_named
from lightning_app.studies.runner import slug

log = logging.getLogger("faceveil")

SEED = "{seed}"  # in an argument it stands for the run's seed


@dataclass(frozen=True)
class Variant:
    """One row of the table: how its mask comes to be, and what else differs.

    Attributes:
        search: arguments of `search-mask` beyond those of the ablation's `search`, by name.
        mask: a mask file, in place of a search.
        args: arguments of `fit` and `validate`, such as `[--model.insertion_points, "[layer2]"]`; `{seed}` in one of
            them is the run's seed, such as `runs/masker_s{seed}`.
        config: in place of the system's.
        paper: a paper's accuracy to show beside ours, in %.
        systems: those that it is trained or verified in, where a column means nothing for it, such as the mask alone
            of a method without a mask; all by default.
    """

    search: dict[str, Any] | None = None
    mask: str | None = None
    args: list[str] = field(default_factory=list)
    config: str | None = None
    paper: float | None = None
    systems: list[str] | None = None


@dataclass(frozen=True)
class System:
    """One column of the table: a recogniser that is trained, or one that is only verified.

    Attributes:
        config: of `fit`, or of `validate` where a checkpoint is given.
        checkpoint: verify this one under the variant's mask, with the desensitizer of `config`.
        args: arguments of `fit` and `validate`, after the variant's.
    """

    config: str
    checkpoint: str | None = None
    args: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class AblationRun:
    """One run: a cell of the table for one seed.

    Attributes:
        seed: of the run; None for one that is only verified.
        run: name of the run's folder.
        args: the command line after `main.py`.
    """

    seed: int | None
    run: str
    args: tuple[str, ...]


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
        name: of the ablation: folder of its runs, prefix of its masks.
        variants: name → variant, the rows.
        systems: name → system, the columns.
        search: config of `search-mask` that variants with `search` start from.
        seeds: of the runs; each is trained once per seed.
        args: arguments of every run, before the variant's, such as `[--config, overlays/wandb.yaml]`; `{seed}` in one
            is the run's seed.
        figures: further columns of the table: name -> log key of a share of 1, such as `fsm/contribution_all`;
            accuracies are drawn as well.
        logger: by `class_path`; W&B gets the table and the figure, others the numbers.
        runs: folder in which `<name>/` lies.
        masks: folder of masks; a variant's searched mask is `<masks>/<name>-<variant>/mask.png`.
        accuracy: log key of the accuracy in the table, which a finished run has, such as `val/accuracy` of a task.

    Raises:
        FileNotFoundError: a config, mask or checkpoint is not there.
        ChildProcessError: some runs failed; names them and their logs, after all others were done.
        ValueError: a variant with both a search and a mask, a figure named like one of the command's own, or a
            finished run or search that was made otherwise: other arguments, another mask, or a config or
            checkpoint that has changed since.
    """
    if not variants or not systems:
        raise ValueError("ablate: give at least one of variants and of systems")
    if not is_plain_name(name):
        raise ValueError(f"name: {name!r}; give a plain name, the folder is {runs}/<name>")
    folder = Path(runs) / name
    for kind, labels in (("variants", list(variants)), ("systems", list(systems))):
        jobs.check_labels(kind, labels)
    taken = [figure for figure in figures or {} if figure in TAKEN]
    if taken:
        raise ValueError(
            f"figures.{taken[0]}: the table has a figure of that name already; call it otherwise"
        )
    for label, variant in variants.items():
        if variant.search is not None and variant.mask is not None:
            raise ValueError(f"variants.{label}: has both search and mask; give one of them")
        for column in variant.systems or ():
            if column not in systems:
                raise ValueError(
                    f"variants.{label}.systems: there is no system {column!r}, but {', '.join(systems)}"
                )
        if variant.systems == []:
            raise ValueError(f"variants.{label}.systems: is empty; name one, or leave it out for all")
        if variant.mask is not None:
            load_mask(variant.mask)
        if variant.config is not None:
            find_config(variant.config)
    for system in systems.values():
        find_config(system.config)
        if system.checkpoint is not None and not Path(system.checkpoint).is_file():
            raise FileNotFoundError(
                f"checkpoint {system.checkpoint}: no such file; train it first (see the config)"
            )
    plan = AblationPlan(
        folder, variants, systems, seeds or [0], args or [], figures or {}, search, Path(masks), accuracy
    )
    _check_records(plan)
    for line in check_cells(folder, list(_cells(plan)), choose_device("auto")):
        log.info("Time: %s", line)
    failed: list[str] = []
    with progress_bar() as bar:
        total = sum(1 + sum(plan.wanted[column] for column in plan.columns(label)) for label in variants)
        task = bar.add_task(name, total=total)
        for label, variant in variants.items():
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
            write_report(plan.outcome(name))
    write_report(plan.outcome(name, every_logger(logger)), final=True)
    if failed:
        raise ChildProcessError(
            f"{len(failed)} of {total} steps failed ({', '.join(failed)}): see their logs in {folder / 'logs'}; "
            "given again, the command does only what is missing"
        )


@dataclass(frozen=True)
class AblationPlan:
    """The runs of an ablation.

    Attributes:
        folder: `<runs>/<name>`.
        variants: name → variant, the rows.
        systems: name → system, the columns.
        seeds: of the runs that train.
        args: arguments of every run.
        figures: further figures: name → log key.
        search: config that searches start from.
        masks: folder of the masks that are searched for.
        accuracy: log key of the accuracy.
    """

    folder: Path
    variants: Mapping[str, Variant]
    systems: Mapping[str, System]
    seeds: Sequence[int]
    args: Sequence[str]
    figures: Mapping[str, str]
    search: str = "search_mask.yaml"
    masks: Path = Path("masks")
    accuracy: str = ACCURACY

    @property
    def wanted(self) -> dict[str, int]:
        """Return how many runs a cell of each system has."""
        return {column: 1 if s.checkpoint else len(self.seeds) for column, s in self.systems.items()}

    def columns(self, label: str) -> list[str]:
        """Return the systems that a variant is trained or verified in, in the table's order.

        Args:
            label: of the variant.
        """
        own = self.variants[label].systems
        return [column for column in self.systems if own is None or column in own]

    def mask(self, label: str) -> Path | None:
        """Return where a variant's mask lies, or will lie; None where it has none.

        Args:
            label: of the variant.
        """
        variant = self.variants[label]
        if variant.search is not None:
            return searched_mask(self.folder.name, label, self.masks)
        return None if variant.mask is None else Path(variant.mask)

    def search_job(self, label: str) -> AblationRun:
        """Return the search of a variant that has one, but for where its mask goes.

        Args:
            label: of the variant.
        """
        args = ["search-mask", "--config", self.search]
        for key, value in (self.variants[label].search or {}).items():
            args += [f"--{key}", *(_as_text(v) for v in (value if isinstance(value, list) else [value]))]
        return AblationRun(None, f"search_{slug(label)}", tuple(args))

    def record(self, job: AblationRun) -> Path:
        """Return where it is kept what a run or search was made with.

        Args:
            job: the run, or the search.
        """
        return self.folder / "jobs" / f"{job.run}.json"

    def jobs(self, label: str, mask: Path | None = None, column: str | None = None) -> Iterator[AblationRun]:
        """Return the runs of a variant, of all systems or of one.

        Args:
            label: of the variant.
            mask: file of its mask.
            column: of the system.
        """
        variant = self.variants[label]
        mask_args = [] if mask is None else ["--data.desensitizer.init_args.mask", str(mask)]
        for name in self.columns(label):
            if column not in (None, name):
                continue
            system = self.systems[name]
            config = variant.config or system.config
            own = [*self.args, *variant.args, *system.args]
            common = ["--config", config, *mask_args, *own, "--runs", str(self.folder)]
            if system.checkpoint is not None:
                if any(SEED in word for word in own):
                    raise ValueError(
                        f"variants.{label}, systems.{name}: {SEED} in args, but {name} is verified, not trained, and "
                        "has no seed; give its systems in an ablation of their own"
                    )
                run = f"{slug(label)}_{slug(name)}"
                args = ["validate", *common, "--name", run, "--ckpt_path", system.checkpoint]
                yield AblationRun(None, run, tuple(args))
                continue
            for seed in self.seeds:
                run = f"{slug(label)}_{slug(name)}_s{seed}"
                seeded = [word.replace(SEED, str(seed)) for word in common]
                args = ["fit", *seeded, "--name", run, "--seed_everything", str(seed)]
                yield AblationRun(seed, run, tuple(args))

    def outcome(self, name: str, loggers: Sequence[Logger] = ()) -> AblationOutcome:
        """Gather what is done so far.

        Args:
            name: of the ablation.
            loggers: where copies of the report go.
        """
        found = {
            label: {
                column: [
                    read_metrics(self.folder / job.run / "metrics.json")
                    for job in self.jobs(label, column=column)
                    if jobs.finished(self.folder / job.run, self.accuracy)
                ]
                for column in self.columns(label)
            }
            for label in self.variants
        }
        paper = {label: v.paper for label, v in self.variants.items() if v.paper is not None}
        return AblationOutcome(
            name, self.folder, found, self.wanted, self.figures, paper, loggers, self.accuracy
        )


def _check_records(plan: AblationPlan) -> None:
    """Refuse what was made otherwise: before hours of training, not after."""
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
            jobs.check_record(plan.record(job), made, _description(job, under))
            old += [job.run] if jobs.is_old(plan.record(job), made) else []
    if old:
        log.warning(
            "%s: %d runs and searches are of an earlier version, which did not keep what their configs and checkpoints "
            "held; they are taken as they are (%s).", plan.folder, len(old), ", ".join(old),
        )  # fmt: skip


def _cells(plan: AblationPlan) -> Iterator[Cell]:
    """Return what is run, cell by cell; searches are checked on the way."""
    for label, variant in plan.variants.items():
        mask = plan.mask(label)
        searched = variant.search is not None and not (mask is not None and mask.is_file())
        if searched:
            check_named(f"variants.{label}.search", plan.search_job(label).args)
        for column in plan.columns(label):
            system = plan.systems[column]
            own = list(plan.jobs(label, None if searched else mask, column))
            config = variant.config or system.config
            where = f"systems.{column}, variants.{label}"
            seeded = any(SEED in word for word in (*plan.args, *variant.args, *system.args))
            for jobs_alike in [[job] for job in own] if seeded else [own]:
                folders = [plan.folder / job.run for job in jobs_alike]
                args = jobs_alike[0].args[1:]
                yield Cell(where, config, args, folders, system.checkpoint, searched, plan.accuracy)


def _search(plan: AblationPlan, label: str) -> bool:
    """Search for a variant's mask unless it is there; tell whether it is."""
    mask, job = plan.mask(label), plan.search_job(label)
    assert mask is not None
    jobs.write_record(plan.record(job), mask, _description(job, None))
    if not mask.is_file():
        place = ["--name", mask.parent.name, "--output", str(plan.masks)]
        jobs.call([*job.args, *place], plan.folder / "logs" / f"{job.run}.log", plan.folder.name)
    return mask.is_file()


def searched_mask(name: str, label: str, masks: Path) -> Path:
    """Return where the mask lies that an ablation searches for one of its variants.

    Args:
        name: of the ablation.
        label: of the variant.
        masks: folder of masks.
    """
    return masks / f"{name}-{slug(label)}" / "mask.png"


def _as_text(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool | dict) or value is None else str(value)


def _run(job: AblationRun, mask: Path | None, plan: AblationPlan) -> bool:
    """Do a run unless it is done, going on where it was killed; tell whether it is done."""
    run = plan.folder / job.run
    jobs.write_record(plan.record(job), run, _description(job, mask))
    log_file = plan.folder / "logs" / f"{job.run}.log"
    return jobs.do(job.args, run, log_file, plan.folder.name, figure=plan.accuracy)


def _description(job: AblationRun, mask: Path | None) -> dict[str, object]:
    return {
        "args": list(job.args),
        "mask_hash": None if mask is None else mask_hash(load_mask(mask)),
        jobs.FILES: jobs.named_files(job.args),
    }


def build_parser() -> CommandParser:
    """Return the parser of `ablate`; its help comes from `ablate`'s docstring."""
    parser = command_parser(ablate)
    parser.add_function_arguments(ablate)
    return parser


def run(args: list[str]) -> None:
    """Run `ablate` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["--config", "table8.yaml"]`.

    Raises:
        ValueError, OSError: see `ablate`.
    """
    values = parsed(build_parser(), args)
    for key, kind in (("variants", Variant), ("systems", System)):
        values[key] = {k: v if isinstance(v, kind) else kind(**v) for k, v in values[key].items()}
    ablate(**values)
