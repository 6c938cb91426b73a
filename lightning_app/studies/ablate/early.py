"""What an ablation checks before its first run, and how long it will take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lightning_app.cli.configs import find_config
from lightning_app.cli.fit_config import FitSettings, read_fit_settings
from lightning_app.core.files import is_plain_name
from lightning_app.masks import load_mask
from lightning_app.studies import runner as jobs
from lightning_app.studies.ablate.plan import SEED, AblationPlan
from lightning_app.studies.ablate.report import TAKEN
from lightning_app.studies.config_place import said_at
from lightning_app.studies.estimate import Planned, estimate
from lightning_app.studies.preflight import check_checkpoint, check_fit, check_room

_OF_A_RUN = ("--runs", "--name", "--ckpt_path", "--seed_everything")  # which differ from run to run


@dataclass(frozen=True)
class Cell:
    """A row and column of an ablation, and the runs that it takes.

    Attributes:
        where: in the config it stands, for messages.
        config: of `fit` or `validate`.
        args: the command line of its first run, after the subcommand.
        runs: the runs' folders.
        checkpoint: that is verified; None where runs are trained.
        searched: its mask is still to be searched for.
        figure: a log key that only a finished run has.
    """

    where: str
    config: str
    args: Sequence[str]
    runs: Sequence[Path]
    checkpoint: str | None = None
    searched: bool = False
    figure: str = "lfw/accuracy"


def check_plan(plan: AblationPlan, name: str, runs: str) -> None:
    """Check what an ablation is asked for, before any of its configs is read.

    Args:
        plan: of the ablation.
        name: of it, as it was given.
        runs: folder in which the ablation's folder lies, as it was given.

    Raises:
        FileNotFoundError: a config, mask or checkpoint is not there.
        ValueError: an argument cannot be used.
    """
    variants, systems = plan.variants, plan.systems
    if not variants or not systems:
        raise ValueError("ablate: give at least one of variants and of systems")
    if not is_plain_name(name):
        raise ValueError(f"name: {name!r}; give a plain name, the folder is {runs}/<name>")
    for kind, labels in (("variants", list(variants)), ("systems", list(systems))):
        jobs.check_labels(kind, labels)
    taken = [figure for figure in plan.figures if figure in TAKEN]
    if taken:
        raise ValueError(
            f"figures.{taken[0]}: the table has a metric of that name already; call it otherwise"
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


def cells_of(plan: AblationPlan) -> Iterator[Cell]:
    """Yield what is run, cell by cell; searches are checked on the way.

    Args:
        plan: of the ablation.

    Raises:
        FileNotFoundError: a search names a config or a checkpoint that is not there.
    """
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


def check_cells(folder: Path, cells: Sequence[Cell], device: torch.device | None = None) -> list[str]:
    """Check all that can be checked before the first run of a study.

    Args:
        folder: of the study.
        cells: what it runs.
        device: where steps are timed; the CPU by default.

    Returns:
        Lines that say how long the runs that are missing will take.

    Raises:
        FileNotFoundError, ValueError, OSError: a run would fail; names where in the config.
    """
    read: dict[tuple[str, ...], FitSettings] = {}
    planned: list[Planned] = []
    for cell in cells:
        missing = [run for run in cell.runs if not jobs.finished(run, cell.figure)]
        if not missing:
            continue
        args = _without(cell.args)
        if cell.searched:  # there is no mask yet
            args = [*args, "--data.init_args.desensitizer", "null"]
        key = tuple(args)
        if key not in read:
            with said_at(cell.where):
                read[key] = read_fit_settings(args)
            check_fit(cell.where, read[key], cell.checkpoint is None)
        if cell.checkpoint is not None:
            check_checkpoint(cell.where, cell.config, read[key], cell.checkpoint)
        else:
            planned += [Planned(cell.where.partition(",")[0], read[key])] * len(missing)
    check_room(folder, [one.setting for one in planned])
    return estimate(planned, folder.parent, device)


def check_named(where: str, args: Sequence[str]) -> None:
    """Check that the checkpoints are there which a command line and its configs name.

    Args:
        where: in the config it stands, for messages.
        args: the command line after `main.py`.

    Raises:
        FileNotFoundError: a config or a checkpoint is not there.
    """
    for name, digest in jobs.named_files(args).items():
        if digest is None:
            raise FileNotFoundError(f"{where}: {name}: no such checkpoint; train it first")


def _without(args: Sequence[str]) -> list[str]:
    out: list[str] = []
    words = iter(args)
    for word in words:
        if word in _OF_A_RUN:
            next(words, None)
        else:
            out.append(word)
    return out
