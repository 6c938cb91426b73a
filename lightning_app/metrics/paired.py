"""Two recognisers on the same pairs of faces: by how much one is the better, with a paired interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_app.metrics.verification import LEVEL, Interval, Numbers, as_array, resamples, verification


@dataclass(frozen=True)
class AccuracyGain:
    """What one recogniser gains over another on the same pairs; shares of 1.

    Attributes:
        accuracy: of the first, as `verification` measures it.
        baseline: of the second.
        gain: accuracy − baseline.
        gain_ci: (low, high), 95 %; (nan, nan) where no bootstrap was asked for.
    """

    accuracy: float
    baseline: float
    gain: float
    gain_ci: Interval


def decided_rightly(scores: Numbers, same: Numbers, folds: Numbers) -> npt.NDArray[np.bool_]:
    """Return of every pair whether it is decided rightly, each fold by the threshold chosen on the others.

    Args:
        scores: `[P]` floats, higher = more alike.
        same: `[P]` bool, whether a pair shows one person.
        folds: `[P]` integers, the fold of each pair.

    Returns:
        `[P]` bool; the mean over folds of its share in each is the accuracy of `verification`.

    Raises:
        ValueError: see `verification`.
    """
    thresholds = verification(scores, same, folds, fars=(), bootstrap=0).thresholds
    labels, fold = np.unique(as_array(folds), return_inverse=True)
    limits = np.array([thresholds[label] for label in labels.tolist()])[fold]
    right: npt.NDArray[np.bool_] = (as_array(scores).astype(np.float64) > limits) == as_array(same).astype(
        np.bool_
    )
    return right


def accuracy_gain(
    scores: Numbers,
    baseline: Numbers,
    same: Numbers,
    folds: Numbers,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> AccuracyGain:
    """Compare two recognisers' verification accuracy on the same pairs.

    Each has its own thresholds, chosen as in `verification`. The interval is the 95 % percentile bootstrap
    interval of the difference, paired: a resample takes the same pairs from both, drawn within the
    same-person and within the different-person pairs, each weighted as in the mean over folds; the thresholds
    are not chosen anew. It is widened to the difference where that falls outside.

    Args:
        scores: `[P]` floats of the first recogniser, higher = more alike.
        baseline: `[P]` floats of the second.
        same: `[P]` bool, True = the same person.
        folds: `[P]` integers.
        bootstrap: number of resamples; 0 for no interval.
        seed: of the resamples.

    Raises:
        ValueError: as `verification` says of either.

    Example:
        >>> same, folds = [True, False, True, False], [1, 1, 2, 2]
        >>> gain = accuracy_gain([0.9, 0.2, 0.8, 0.4], [0.9, 0.2, 0.3, 0.4], same, folds, bootstrap=100)
        >>> gain.accuracy, gain.baseline, gain.gain
        (1.0, 0.75, 0.25)
    """
    right = [decided_rightly(values, same, folds) for values in (scores, baseline)]
    is_same = as_array(same).astype(np.bool_)
    fold = np.unique(as_array(folds), return_inverse=True)[1]
    size = np.bincount(fold)
    accuracy, other = (float((np.bincount(fold, weights=r) / size).mean()) for r in right)
    gain = accuracy - other
    if bootstrap == 0:
        return AccuracyGain(accuracy, other, gain, (np.nan, np.nan))
    weight = 1 / size[fold]
    won = weight * (right[0].astype(np.int64) - right[1])  # −1, 0 or 1 of a pair's weight
    split = (is_same, ~is_same)
    found = []
    for drawn in resamples([int(kind.sum()) for kind in split], bootstrap, seed):
        shares = [(won[kind][d].sum(1), weight[kind][d].sum(1)) for kind, d in zip(split, drawn, strict=True)]
        found.append(sum(w for w, _ in shares) / sum(total for _, total in shares))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(found), (tail, 1 - tail)).tolist()
    return AccuracyGain(accuracy, other, gain, (min(low, gain), max(high, gain)))
