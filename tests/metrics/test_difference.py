"""The paired difference of two kinds of runs: its mean by hand, its interval against a normal approximation."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_app.metrics import verification
from lightning_app.metrics.difference import decided_rightly, paired_difference


def test_the_share_decided_rightly_is_the_accuracy() -> None:
    random = np.random.default_rng(0)
    same, folds = np.arange(400) % 2 == 0, np.repeat(np.arange(4), 100)
    scores = random.normal(size=400) + same
    right = decided_rightly(scores, same, folds)
    assert right.mean() == pytest.approx(verification(scores, same, folds, bootstrap=0).accuracy, abs=1e-12)


def test_the_mean_is_that_of_seeds_and_pairs_and_equal_runs_do_not_differ() -> None:
    ours, theirs = [[1, 1, 1, 0], [1, 1, 0, 0]], [[1, 0, 0, 0]]
    found = paired_difference(ours, theirs, resamples=200)
    assert found.mean == pytest.approx(5 / 8 - 1 / 4)
    assert found.low <= found.mean <= found.high
    same = paired_difference(theirs, theirs, resamples=200)
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_the_interval_is_that_of_paired_differences() -> None:
    """One run each: the paired differences' own standard error; the same pairs make it narrower than two samples'."""
    random = np.random.default_rng(1)
    hard = random.random(4000)
    ours, theirs = (hard < 0.85).astype(float), (hard < 0.80).astype(float)
    found = paired_difference([ours], [theirs], resamples=1000)
    error = (ours - theirs).std() / np.sqrt(4000)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_seeds_that_differ_widen_the_interval() -> None:
    random = np.random.default_rng(2)
    theirs = [random.random(2000) < 0.8 for _ in range(3)]
    steady = [random.random(2000) < 0.8 for _ in range(3)]
    moody = [random.random(2000) < p for p in (0.7, 0.8, 0.9)]
    wide, narrow = (paired_difference(runs, theirs, resamples=400) for runs in (moody, steady))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


@pytest.mark.parametrize("ours", [[], [[1, 0]], [1, 0, 1]])
def test_runs_on_other_pairs_are_refused(ours: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="on the same pairs"):
        paired_difference(ours, [[1, 0, 1]])
