"""What every benchmark shares: interleaved runs, and the row they end in."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from lightning_app.distributed.precision import Precision, computes_in

CPU = torch.device("cpu")
# what a user of this CPU would take: where bf16 is emulated, a benchmark in it would last for hours
PRECISION: Precision = "bf16-mixed" if computes_in(torch.bfloat16, CPU) else "32-true"


@dataclass(frozen=True)
class Row:
    """One line of the table: our time against a peer's.

    Attributes:
        name: what was measured.
        ours_s: median seconds of ours.
        peer_s: median seconds of the peer.
        ratio: median over repeats of ours / peer, each pair run one after the other.
        low: smallest of these ratios.
        high: largest of these ratios.
        bound: what the ratio should not exceed.
        note: conditions, and how far the results of the two differ.
    """

    name: str
    ours_s: float
    peer_s: float
    ratio: float
    low: float
    high: float
    bound: float
    note: str = ""


class Timing(NamedTuple):
    """Medians in seconds, and the median, smallest and largest ratio ours / peer of a repeat."""

    ours_s: float
    peer_s: float
    ratio: float
    low: float
    high: float


def _seconds(run: Callable[[], object]) -> float:
    _wait()
    start = time.perf_counter()
    run()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleaved(
    ours: Callable[[], object], peer: Callable[[], object], repeats: int, warmup: int = 1
) -> Timing:
    """Time two callables in turn, so that what else the machine does hits both.

    Which of the two goes first changes with every repeat. A GPU is waited for where one is in use.

    Args:
        ours: run without arguments; the result is dropped.
        peer: likewise.
        repeats: timed runs of each, at least 1.
        warmup: untimed runs of each before.

    Raises:
        ValueError: repeats below 1.
    """
    if repeats < 1:
        raise ValueError(f"interleaved: repeats is {repeats}; give at least 1")
    for _ in range(warmup):
        ours()
        peer()
    mine: list[float] = []
    theirs: list[float] = []
    for repeat in range(repeats):
        turns = [(mine, ours), (theirs, peer)]
        for times, run in turns if repeat % 2 == 0 else reversed(turns):
            times.append(_seconds(run))
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    return Timing(
        statistics.median(mine),
        statistics.median(theirs),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
    )
