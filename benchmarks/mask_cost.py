"""The tables of the study "What the mask costs", in Markdown, from the runs of its ablations.

    python -m benchmarks.mask_cost runs/epochs --against "16_epochs_clean"

A row for every kind of run (`<variant>_<system>`), its seeds together: mean accuracy and standard deviation over seeds,
and the paired difference to another kind, with its 95 % interval (`paired_difference`).
Runs that kept no scores have no difference.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from lightning_app.metrics.paired import decided_rightly
from lightning_app.metrics.verification import LEVEL
from lightning_app.report import read_metrics

_SEEDED = re.compile(r"(.*)_s(\d+)")
FIGURES = {
    "s1": "lfw/accuracy",
    "mirror": "mirror/accuracy",
    "unseen": "unseen/accuracy",
    "training": "train/accuracy",
}


@dataclass(frozen=True)
class Difference:
    """Accuracy of one kind of run less that of another, in shares of 1.

    Attributes:
        mean: over seeds and pairs.
        low: of the 95 % interval.
        high: of the 95 % interval.
    """

    mean: float
    low: float
    high: float


def runs_in(folder: Path) -> dict[str, list[Path]]:
    """Gather the finished runs of an ablation by kind.

    Args:
        folder: of the ablation.

    Returns:
        `<variant>_<system>` -> the folders of its seeds.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob("*/metrics.json")):
        if match := _SEEDED.fullmatch(path.parent.name):
            found[match[1]].append(path.parent)
    return dict(found)


def right(runs: Sequence[Path], name: str = "lfw") -> list[npt.NDArray[Any]]:
    """Read which pairs each run decided rightly; of runs that kept no scores nothing.

    Args:
        runs: folders.
        name: of the verification set.
    """
    found = []
    for run in runs:
        if (file := run / "scores" / f"{name}.safetensors").is_file():
            kept = load_file(file)
            found.append(
                decided_rightly(kept["scores_s1"], kept["same"].astype(bool), kept["folds"].astype(int))
            )
    return found


def paired_difference(
    ours: Sequence[npt.ArrayLike], theirs: Sequence[npt.ArrayLike], resamples: int = 2000, seed: int = 0
) -> Difference:
    """Return how much more often ours decide rightly than theirs, with a bootstrap interval over pairs and seeds.

    A resample draws pairs, the same for all runs, and runs of each kind, independently: the interval holds the chance
    of the pairs and that of the training.

    Args:
        ours: `[P]` bool of each run, see `decided_rightly`.
        theirs: likewise, of the same pairs; there may be another number of runs.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        The difference of the mean accuracies and its 95 % interval (percentiles).

    Raises:
        ValueError: no run, or runs on different numbers of pairs.
    """
    first, second = (np.asarray(runs, dtype=np.float64) for runs in (ours, theirs))
    if (
        first.ndim != 2
        or second.ndim != 2
        or first.shape[1] != second.shape[1]
        or not first.size * second.size
    ):
        raise ValueError(
            f"paired_difference: ours {list(first.shape)}, theirs {list(second.shape)}; give at least one run of each, "
            "as [runs, pairs], on the same pairs"
        )
    random = np.random.default_rng(seed)
    pairs = first.shape[1]
    drawn = np.empty(resamples)
    for at in range(resamples):
        weight = np.bincount(random.integers(pairs, size=pairs), minlength=pairs) / pairs
        a, b = (random.integers(len(runs), size=len(runs)) for runs in (first, second))
        drawn[at] = first[a].mean(0) @ weight - second[b].mean(0) @ weight
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(float(first.mean() - second.mean()), float(low), float(high))


def table(
    kinds: Mapping[str, Sequence[Path]], against: Sequence[Path], metrics: Mapping[str, str]
) -> list[str]:
    """Make the lines of a Markdown table.

    Args:
        kinds: what `runs_in` found, of one or more ablations.
        against: runs that the others are compared with.
        metrics: column -> log key of a share of 1.
    """
    lines = [
        "| | seeds | " + " | ".join(metrics) + " | difference |",
        "| --- | --- |" + " --- |" * (len(metrics) + 1),
    ]
    theirs = right(against)
    for kind, runs in kinds.items():
        cells = []
        for key in metrics.values():
            found = (read_metrics(run / "metrics.json").get(key) for run in runs)
            values = [100 * float(value) for value in found if value is not None]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "")
        ours = right(runs)
        gap = ""
        if ours and theirs and list(runs) != list(against):
            d = paired_difference(ours, theirs)
            gap = f"{100 * d.mean:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}]"
        lines.append(f"| {kind} | {len(runs)} | " + " | ".join(cells) + f" | {gap} |")
    return lines


def main(args: list[str] | None = None) -> None:
    """Print the table.

    Args:
        args: the command line; `sys.argv[1:]` by default.

    Raises:
        SystemExit: there is no such kind of run to compare with.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mask_cost", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folders", nargs="+", type=Path, help="of ablations")
    parser.add_argument("--against", default="", help="kind of run that the others are compared with")
    given = parser.parse_args(args)
    kinds: dict[str, list[Path]] = {}
    for folder in given.folders:
        head = f"{folder.name}: " if len(given.folders) > 1 else ""
        kinds |= {f"{head}{kind}": runs for kind, runs in runs_in(folder).items()}
    if given.against and given.against not in kinds:
        parser.error(f"--against {given.against!r}: choose one of {', '.join(kinds) or '(no finished run)'}")
    print("\n".join(table(kinds, kinds.get(given.against, []), FIGURES)))


if __name__ == "__main__":
    main()
