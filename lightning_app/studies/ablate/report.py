"""What `ablate` shows and leaves: the table, metrics.json, the figure, and loggers' copies."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightning.pytorch.loggers import Logger

from lightning_app.core.files import write_atomically
from lightning_app.core.log_keys import kind_of, tail_of
from lightning_app.core.measurement import find
from lightning_app.report import png_bytes, print_table, write_metrics
from lightning_app.report.ablation import ablation_chart
from lightning_app.report.tables import Scalar
from lightning_app.runs.send import send_report

ACCURACY = "lfw/accuracy"
_AUC = {"auc": "lfw/auc"}  # beside that accuracy alone
_VERIFIED = "{}/accuracy"  # of a verification set, without a gate or in another situation too
_OF_VARIANTS = {"mask_ratio": "privacy/mask_ratio", "dssim": "privacy/dssim"}
TAKEN = ("accuracy", *_AUC, *_OF_VARIANTS, "seeds", "paper")  # names that further metrics cannot have
Found = Mapping[str, Mapping[str, Sequence[Mapping[str, Scalar]]]]


@dataclass(frozen=True)
class AblationOutcome:
    """What an ablation found so far.

    Attributes:
        name: of the ablation.
        folder: where its files go.
        found: variant → system → the `metrics.json` of each run that is done; all variants, each with the systems that
            it has a cell in.
        wanted: system → how many runs a cell has when all are done.
        figures: further figures of the runs: name → log key of a share of 1.
        paper: variant → a paper's accuracy, in %.
        loggers: where copies go.
        accuracy: log key of the accuracy.
    """

    name: str
    folder: Path
    found: Found
    wanted: Mapping[str, int]
    figures: Mapping[str, str]
    paper: Mapping[str, float]
    loggers: Sequence[Logger] = field(default_factory=list)
    accuracy: str = ACCURACY


def write_report(out: AblationOutcome, final: bool = False) -> None:
    """Write metrics.json and the figure from what is known so far.

    Args:
        out: what was found.
        final: print the table and send copies to the loggers as well.
    """
    flat: dict[str, float] = {
        f"ablation/{label}/paper": round(value / 100, 6) for label, value in out.paper.items()
    }
    points: dict[str, dict[str, tuple[float, float, float]]] = {column: {} for column in out.wanted}
    rows: list[list[object]] = []
    several = len(out.wanted) > 1
    of_runs = {"accuracy": out.accuracy} | (_AUC if out.accuracy == ACCURACY else {})
    for label, systems in out.found.items():
        cells: list[str] = []
        for column in out.wanted:
            if column not in systems:
                cells += ["–"] * (1 + len(out.figures))
                continue
            runs = systems[column]
            for short, key in _OF_VARIANTS.items():
                if (at := _over(runs, key)) is not None:
                    flat[f"ablation/{label}/{short}"] = at.mean
            for short, key in (of_runs | dict(out.figures)).items():
                at = _over(runs, key)
                if short != "auc":
                    cells.append(_cell(at, out.wanted[column] if short == "accuracy" else None))
                if at is None:
                    continue
                flat[f"ablation/{label}/{column}/{short}"] = at.mean
                if at.std is not None:
                    flat[f"ablation/{label}/{column}/{short}_std"] = at.std
                if short == "accuracy":
                    flat[f"ablation/{label}/{column}/seeds"] = at.count
                # the axis is of verification: accuracy in training, or of held-out images, is in the table alone
                if (kind := kind_of(key)) is not None and kind[0].key.startswith(_VERIFIED):
                    series = column if short == "accuracy" else f"{column}, {short}" if several else short
                    points.setdefault(series, {})[label] = (at.mean, *at.reach)
        description = [flat.get(f"ablation/{label}/{short}") for short in _OF_VARIANTS]
        shown = ["–" if value is None else f"{value:.4f}" for value in description]
        paper = [f"{out.paper[label]:.2f}" if label in out.paper else "–"] if out.paper else []
        rows.append([label, *shown, *cells, *paper])
    write_metrics(out.folder / "metrics.json", flat)
    picture = ablation_chart(points, list(out.found), title=out.name) if any(points.values()) else None
    if picture is not None:
        write_atomically(out.folder / "ablation.png", png_bytes(picture))
    if not final:
        return
    heads = ["variant", "mask ratio", "dSSIM"]
    for column in out.wanted:
        heads += [column, *(f"{column}, {name}" if several else name for name in out.figures)]
    heads += ["paper"] if out.paper else []
    if several:  # a metric that no run of a system has needs no column
        figures = {f"{column}, {name}" for column in out.wanted for name in out.figures}
        kept = [
            n for n, head in enumerate(heads) if head not in figures or any(row[n] != "–" for row in rows)
        ]
        heads, rows = [heads[n] for n in kept], [[row[n] for n in kept] for row in rows]
    what = "verification accuracy" if out.accuracy == ACCURACY else out.accuracy
    meaning = "mean ± std over seeds, of one run [95 % interval over pairs]"
    title = f"ablate {out.name}: {what} in %, {meaning}; see {out.folder}"
    send_report(out.loggers, out.folder, "ablation", heads, rows, picture, flat)
    print_table(title, rows, heads)


@dataclass(frozen=True)
class _Over:
    mean: float
    std: float | None
    count: int
    interval: tuple[float, float] | None = None  # of a single run, over pairs

    @property
    def reach(self) -> tuple[float, float]:
        """How far the error bar goes down and up: the deviation over seeds; of a single run its interval."""
        if self.std is not None or self.interval is None:
            return self.std or 0.0, self.std or 0.0
        return max(0.0, self.mean - self.interval[0]), max(0.0, self.interval[1] - self.mean)


def _over(runs: Sequence[Mapping[str, Scalar]], key: str) -> _Over | None:
    """Take a metric over the runs that have it: mean and standard deviation (ddof 1, none of one)."""
    have = [(float(value), run) for run in runs if isinstance(value := run.get(key), int | float)]
    if not have:
        return None
    values = [value for value, _ in have]
    if len(values) > 1:
        return _Over(statistics.fmean(values), statistics.stdev(values), len(values))
    flat = {name: float(one) for name, one in have[0][1].items() if isinstance(one, int | float)}
    found = find(flat, key, tail_of(key))
    ends = None if found is None or found.low is None or found.high is None else (found.low, found.high)
    return _Over(values[0], None, 1, ends)


def _cell(at: _Over | None, wanted: int | None) -> str:
    """Show a share in %; with the number of runs `wanted`, say how many there are or that all are missing."""
    if at is None:
        return "–" if wanted is None else "missing"
    text = f"{100 * at.mean:.1f}" + ("" if at.std is None else f" ± {100 * at.std:.1f}")
    if at.interval is not None:
        text += f" [{100 * at.interval[0]:.1f}, {100 * at.interval[1]:.1f}]"
    if wanted is None or wanted == 1:
        return text
    return f"{text} ({at.count} seeds)" if at.count == wanted else f"{text} ({at.count} of {wanted} seeds)"
