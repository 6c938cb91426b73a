"""`python main.py ablate`: the same recognisers under several masks or settings, run after run, into one table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from lightning_app import jobs
from lightning_app.commands.ablate_report import TAKEN, Outcome, write_report
from lightning_app.commands.parser import CommandParser, command_parser
from lightning_app.configs import find_config
from lightning_app.jobs import slug
from lightning_app.masks import load_mask, mask_hash
from lightning_app.progress import progress_bar
from lightning_app.report import read_metrics


@dataclass(frozen=True)
class Variant:
    """One row of the table: how its mask comes to be, and what else differs.

    Attributes:
        search: arguments of `search-mask` beyond those of the ablation's `search`, by name.
        mask: a mask file, in place of a search.
        args: arguments of `fit` and `validate`, such as `[--model.insertion_points, "[layer2]"]`.
        config: in place of the system's.
        paper: a paper's accuracy to show beside ours, in %.
    """

    search: dict[str, Any] | None = None
    mask: str | None = None
    args: list[str] = field(default_factory=list)
    config: str | None = None
    paper: float | None = None


@dataclass(frozen=True)
class System:
    """One column of the table: a recogniser that is trained, or one that is only verified.

    Attributes:
        config: of `fit`, or of `validate` where a checkpoint is given.
        checkpoint: verify this one under the variant's mask, with the desensitizer of `config`.
    """

    config: str
    checkpoint: str | None = None


@dataclass(frozen=True)
class Job:
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
) -> None:
    """Train or verify every system under every variant, one run after the other, into one table.

    Each run is an ordinary `fit` or `validate` in `<runs>/<name>/`, and in the W&B group `<name>`. A run that
    fails does not stop the others; given again, the command does only what is missing and goes on with a run
    that was killed. In `<runs>/<name>/`: `metrics.json`, `ablation.png` (error bars: standard deviation over
    seeds), `logs/`.

    Args:
        name: of the ablation: folder of its runs, prefix of its masks.
        variants: name → variant, the rows.
        systems: name → system, the columns.
        search: config of `search-mask` that variants with `search` start from.
        seeds: of the runs; each is trained once per seed.
        args: arguments of every run, before the variant's, such as `[--config, overlays/wandb.yaml]`.
        figures: further columns of the table: name -> log key of a share of 1, such as `fsm/contribution_all`;
            accuracies are drawn as well.
        logger: by `class_path`; W&B gets the table and the figure, others the numbers.
        runs: folder in which `<name>/` lies.
        masks: folder of masks; a variant's searched mask is `<masks>/<name>-<variant>/mask.png`.

    Raises:
        FileNotFoundError: a config, mask or checkpoint is not there.
        ChildProcessError: some runs failed; names them and their logs, after all others were done.
        ValueError: a variant with both a search and a mask, a figure named like one of the command's own, or a
            finished run that was made otherwise.
    """
    if not variants or not systems:
        raise ValueError("ablate: give at least one of variants and of systems")
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
    plan = Plan(folder, variants, systems, seeds or [0], args or [], figures or {})
    known = {label: Path(v.mask) if v.mask else None for label, v in variants.items() if v.search is None}
    for label, mask in known.items():  # before hours of training, not after
        for job in plan.jobs(label, mask):
            jobs.check_record(folder / "jobs" / f"{job.run}.json", folder / job.run, _about(job.args, mask))
    failed: list[str] = []
    with progress_bar() as bar:
        total = len(variants) * (1 + sum(plan.wanted.values()))
        task = bar.add_task(name, total=total)
        for label, variant in variants.items():
            bar.update(task, description=f"{label}: mask")
            mask = known[label] if label in known else _searched(label, variant, name, search, masks, folder)
            bar.advance(task)
            own = list(plan.jobs(label, mask))
            for job in own if variant.search is None or mask is not None else ():
                bar.update(task, description=job.run)
                if not _run(job, mask, folder):
                    failed.append(job.run)
                bar.advance(task)
            if variant.search is not None and mask is None:
                failed.append(f"{label}: search-mask")
                bar.advance(task, len(own))
            write_report(plan.outcome(name))
    loggers = logger if isinstance(logger, list) else [] if logger is None else [logger]
    write_report(plan.outcome(name, loggers), final=True)
    if failed:
        raise ChildProcessError(
            f"{len(failed)} of {total} steps failed ({', '.join(failed)}): see their logs in {folder / 'logs'}; "
            "given again, the command does only what is missing"
        )


@dataclass(frozen=True)
class Plan:
    """The runs of an ablation.

    Attributes:
        folder: `<runs>/<name>`.
        variants: name → variant, the rows.
        systems: name → system, the columns.
        seeds: of the runs that train.
        args: arguments of every run.
        figures: further figures: name → log key.
    """

    folder: Path
    variants: Mapping[str, Variant]
    systems: Mapping[str, System]
    seeds: Sequence[int]
    args: Sequence[str]
    figures: Mapping[str, str]

    @property
    def wanted(self) -> dict[str, int]:
        """How many runs a cell of each system has."""
        return {column: 1 if s.checkpoint else len(self.seeds) for column, s in self.systems.items()}

    def jobs(self, label: str, mask: Path | None = None, column: str | None = None) -> Iterator[Job]:
        """Give the runs of a variant, of all systems or of one.

        Args:
            label: of the variant.
            mask: file of its mask.
            column: of the system.
        """
        variant = self.variants[label]
        veil = [] if mask is None else ["--data.desensitizer.init_args.mask", str(mask)]
        for name, system in self.systems.items():
            if column not in (None, name):
                continue
            config = variant.config or system.config
            common = ["--config", config, *veil, *self.args, *variant.args, "--runs", str(self.folder)]
            if system.checkpoint is not None:
                run = f"{slug(label)}_{slug(name)}"
                args = ["validate", *common, "--name", run, "--ckpt_path", system.checkpoint]
                yield Job(None, run, tuple(args))
                continue
            for seed in self.seeds:
                run = f"{slug(label)}_{slug(name)}_s{seed}"
                args = ["fit", *common, "--name", run, "--seed_everything", str(seed)]
                yield Job(seed, run, tuple(args))

    def outcome(self, name: str, loggers: Sequence[Logger] = ()) -> Outcome:
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
                    if jobs.finished(self.folder / job.run)
                ]
                for column in self.systems
            }
            for label in self.variants
        }
        paper = {label: v.paper for label, v in self.variants.items() if v.paper is not None}
        return Outcome(name, self.folder, found, self.wanted, self.figures, paper, loggers)


def _searched(label: str, variant: Variant, name: str, search: str, masks: str, folder: Path) -> Path | None:
    """Return the variant's mask, searched for where it is not there yet; None where the search failed."""
    assert variant.search is not None
    found = searched_mask(name, label, Path(masks))
    own = found.parent.name
    args = ["search-mask", "--config", search]
    for key, value in variant.search.items():
        args += [f"--{key}", *(_word(v) for v in (value if isinstance(value, list) else [value]))]
    record = folder / "jobs" / f"search_{slug(label)}.json"
    jobs.keep_record(record, found.parent, _about(args, None))
    if not found.is_file():
        jobs.call(
            [*args, "--name", own, "--output", masks],
            folder / "logs" / f"search_{slug(label)}.log",
            name,
        )
    return found if found.is_file() else None


def searched_mask(name: str, label: str, masks: Path) -> Path:
    """Tell where the mask lies that an ablation searches for one of its variants.

    Args:
        name: of the ablation.
        label: of the variant.
        masks: folder of masks.
    """
    return masks / f"{name}-{slug(label)}" / "mask.png"


def _word(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool | dict) or value is None else str(value)


def _run(job: Job, mask: Path | None, folder: Path) -> bool:
    """Do a run unless it is done, going on where it was killed; tell whether it is done."""
    run = folder / job.run
    jobs.keep_record(folder / "jobs" / f"{job.run}.json", run, _about(job.args, mask))
    return jobs.do(job.args, run, folder / "logs" / f"{job.run}.log", folder.name)


def _about(args: Sequence[str], mask: Path | None) -> dict[str, object]:
    return {"args": list(args), "mask_hash": None if mask is None else mask_hash(load_mask(mask))}


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
    parser = build_parser()
    values = parser.instantiate(parser.parse_args(args)).as_dict()
    values.pop("config", None)
    for key, kind in (("variants", Variant), ("systems", System)):
        values[key] = {k: v if isinstance(v, kind) else kind(**v) for k, v in values[key].items()}
    ablate(**values)
