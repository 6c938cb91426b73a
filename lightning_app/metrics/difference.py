"""By how much two recognisers differ on the same pairs, over their training seeds, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_app.metrics.verification import LEVEL, Numbers, as_array, verification


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


def decided_rightly(scores: Numbers, same: Numbers, folds: Numbers) -> npt.NDArray[np.bool_]:
    """Return of every pair whether it is decided rightly, each fold by the threshold chosen on the others.

    Args:
        scores: `[P]`, higher = more alike.
        same: `[P]` bool, whether a pair shows one person.
        folds: `[P]` int, the fold of each pair.

    Returns:
        `[P]` bool; its mean over equal folds is the accuracy of `verification`.

    Raises:
        ValueError: see `verification`.
    """
    thresholds = verification(scores, same, folds, bootstrap=0).thresholds
    limits = np.array([thresholds[int(fold)] for fold in as_array(folds)])
    right: npt.NDArray[np.bool_] = (as_array(scores).astype(np.float64) > limits) == as_array(same).astype(
        np.bool_
    )
    return right


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
