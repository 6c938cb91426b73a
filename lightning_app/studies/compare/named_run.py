"""The folder of a run that a method names (`Method.run`): each seed has its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_app.cli.fit_config import saved_fit_settings

if TYPE_CHECKING:
    from lightning_app.studies.compare.candidate import ComparedMethod

_FIRST = 1  # the seed that folders without a seed in their name are of; 0, the default, is as good


def run_of_seed(runs: Path, name: str, seed: int) -> Path:
    """Return the folder of a named run for a seed: with `_s2` behind its name where the name is another seed's.

    Args:
        runs: folder of runs.
        name: of the run, as a config gives it.
        seed: that is asked for.

    Returns:
        `runs/NAME` where that run has this seed, or the name tells it, or the seed is 0 or 1 and nothing is there yet;
        else `runs/NAME_sSEED`.

    Raises:
        ValueError: the config of the run that is there is damaged.
    """
    there = saved_fit_settings(runs / name)
    of_this = seed <= _FIRST if there is None else there.get("seed_everything") == seed
    named = re.search(rf"(?<![a-z0-9])(?:s|seed_?){seed}(?![a-z0-9])", name)
    return runs / name if of_this or named else runs / f"{name}_s{seed}"


def renamed(candidates: Mapping[str, ComparedMethod]) -> str:
    """Tell which methods' runs have another name than their configs give, for their seed; empty where none has.

    Args:
        candidates: the methods.
    """
    found = {
        label: c.run for label, c in candidates.items()
        if c.method.run and c.method.checkpoint is None and c.run.name != c.method.run
    }  # fmt: skip
    return ", ".join(f"{run} for {label}" for label, run in found.items())
