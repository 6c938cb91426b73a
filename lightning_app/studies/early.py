"""What an ablation checks before its first run, and how long it will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lightning_app.cli.fit_config import FitSettings, read_fit_settings
from lightning_app.studies import runner as jobs
from lightning_app.studies.estimate import Planned, estimate
from lightning_app.studies.preflight import check_checkpoint, check_fit, check_room
from lightning_app.studies.where import said_at

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
