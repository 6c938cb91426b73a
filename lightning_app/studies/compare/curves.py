"""What an attacker's training cost, and whether more of it would have helped: its loss against steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from lightning_app.core.csv_text import read_csv_table
from lightning_app.report.tables import read_metrics
from lightning_app.runs.folder import logs_of

_LOSSES = ("train/l1", "train/loss")  # a GAN's own loss goes up and down with its opponent's; its L1 does not
_PARTS = 10  # of a training; the last two are compared
_FIFTHS = 5  # of what came before the learning rate was taken down: that is shorter, so its parts are longer
_LEAST = 2 * _PARTS  # losses that have to be logged before anything can be said
_RATE = "train/lr"
_HIGH = 0.5  # of the greatest learning rate: below it a loss settles whatever there is left to learn
_SMALL = 0.02  # of all that the loss fell: less is no gain worth more training
_SURE = 2.0  # standard errors


@dataclass(frozen=True)
class Curve:
    """An attacker's loss against steps.

    Attributes:
        steps: where a loss was logged, rising.
        losses: as many.
        batches: how many it was trained on; 0 where the run does not tell.
        seconds: of training; NaN where the run does not tell.
        rates: the learning rate at each of the steps; empty where it was not logged.
    """

    steps: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()
    batches: int = 0
    seconds: float = math.nan
    rates: tuple[float, ...] = ()


def read_curve(run: Path) -> Curve:
    """Read the loss of a run, those before a kill included.

    Args:
        run: its folder.
    """
    found: dict[int, float] = {}
    rates: dict[int, float] = {}
    last = 0
    for file in logs_of(run):
        with file.open(encoding="utf-8", newline="") as rows:
            for row in read_csv_table(rows):
                step = int(float(row["step"])) if row.get("step") else -1
                last = max(last, step + 1)
                value = next((row[name] for name in _LOSSES if row.get(name)), "")
                if step >= 0 and value and math.isfinite(float(value)):
                    found[step] = float(value)
                    if rate := row.get(_RATE):
                        rates[step] = float(rate)
    metrics = read_metrics(run / "metrics.json") if (run / "metrics.json").is_file() else {}
    seconds, batches = metrics.get("time/fit_s"), metrics.get("run/steps")
    steps = sorted(found)
    return Curve(
        tuple(steps), tuple(found[step] for step in steps),
        int(batches) if isinstance(batches, int | float) else last,
        float(seconds) if isinstance(seconds, int | float) else math.nan,
        tuple(rates[step] for step in steps) if rates.keys() == found.keys() else (),
    )  # fmt: skip


def still_falls(losses: Sequence[float], parts: int = _PARTS) -> bool | None:
    """Return whether a loss still fell when training ended: in the last tenth of it, beyond chance.

    Of the logged losses the last tenth is compared with the tenth before. What counts is a fall of more than two
    standard errors of that difference, and of more than a fiftieth of all that the loss fell since the first tenth.

    Args:
        losses: in the order of steps, spread evenly.
        parts: that a training is cut into.

    Returns:
        None where fewer than 20 losses were logged: nothing can be said then.

    Example:
        >>> falling, flat = [1 - 0.01 * step for step in range(50)], [1.0] + [0.5] * 49
        >>> still_falls(falling), still_falls(flat), still_falls([1.0, 0.9])
        (True, False, None)
    """
    if len(losses) < _LEAST:
        return None
    part = len(losses) // parts
    first, before, last = losses[:part], losses[-2 * part : -part], losses[-part:]
    fell = fmean(before) - fmean(last)
    error = math.sqrt((stdev(before) ** 2 + stdev(last) ** 2) / part)
    return fell > max(_SURE * error, _SMALL * max(0.0, fmean(first) - fmean(last)), 1e-12 * abs(fmean(last)))


def why_open(curve: Curve) -> str:
    """Return why more training might make an attacker stronger; empty where its loss no longer falls.

    Args:
        curve: its loss.
    """
    falls = still_falls(curve.losses)
    if falls is None:
        return (
            f"whether its loss still falls is not known: {len(curve.losses)} were logged, {_LEAST} are needed"
        )
    if falls:
        return "its loss still falls"
    before = _before_the_rate_fell(curve)
    if before is None:
        return ""
    falls = still_falls(before, _FIFTHS)
    if falls is None:
        return (
            "its learning rate was taken down, and whether its loss still fell before is not known: "
            f"{len(before)} were logged until then, {_LEAST} are needed"
        )
    return "its loss still fell when its learning rate was taken down" if falls else ""


def _before_the_rate_fell(curve: Curve) -> list[float] | None:
    """Return the losses of the steps with a high learning rate; None where the rate was high at the end too.

    A schedule that ends near 0 makes any loss flat: what it did before tells whether a longer one would help.
    """
    if not curve.rates or curve.rates[-1] >= _HIGH * max(curve.rates):
        return None
    high = _HIGH * max(curve.rates)
    return [loss for loss, rate in zip(curve.losses, curve.rates, strict=True) if rate >= high]


def budgets(curves: Mapping[str, Curve]) -> str:
    """Return what an attacker's trainings cost: the same number of batches for every method, or each one's own.

    Args:
        curves: method -> of its training.
    """
    batches = {one.batches for one in curves.values()}
    seconds = [one.seconds for one in curves.values() if not math.isnan(one.seconds)]
    time = f", {min(seconds):.0f} to {max(seconds):.0f} s" if seconds else ""
    if len(batches) == 1:
        return f"{batches.pop()} batches for each method{time}"
    each = ", ".join(f"{method} {one.batches}" for method, one in curves.items())
    return f"not the same for each method, in batches: {each}{time}"
