"""The tables of the study "What the mask costs", in Markdown, from the runs of its ablations.

    python -m benchmarks.mask_cost runs/epochs --against "16_epochs_clean"

A row for every kind of run (`<variant>_<system>`), its seeds together: mean accuracy and standard deviation over seeds,
and the paired difference to another kind, with its 95 % interval (`lightning_app.metrics.difference`).
Runs that kept no scores have no difference.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
from safetensors.numpy import load_file

from lightning_app.metrics.difference import decided_rightly, paired_difference
from lightning_app.report import read_metrics

_SEEDED = re.compile(r"(.*)_s(\d+)")
FIGURES = {
    "s1": "lfw/accuracy",
    "mirror": "mirror/accuracy",
    "unseen": "unseen/accuracy",
    "training": "train/accuracy",
}


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


def table(
    kinds: Mapping[str, Sequence[Path]], against: Sequence[Path], figures: Mapping[str, str]
) -> list[str]:
    """Make the lines of a Markdown table.

    Args:
        kinds: what `runs_in` found, of one or more ablations.
        against: runs that the others are compared with.
        figures: column -> log key of a share of 1.
    """
    lines = [
        "| | seeds | " + " | ".join(figures) + " | difference |",
        "| --- | --- |" + " --- |" * (len(figures) + 1),
    ]
    theirs = right(against)
    for kind, runs in kinds.items():
        cells = []
        for key in figures.values():
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
