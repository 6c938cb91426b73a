"""accuracy_gain against accuracies counted one by one and against a bootstrap written out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lightning_app.metrics import verification
from lightning_app.metrics.paired import accuracy_gain, decided_rightly
from tests.metrics.conftest import Pairs


def test_gain_is_the_difference_of_two_verifications(pairs: Callable[..., Pairs]) -> None:
    scores, same, folds = pairs()
    worse = scores + np.random.default_rng(1).normal(0, 1.5, len(scores))
    found = accuracy_gain(scores, worse, same, folds, bootstrap=200)
    one, other = (verification(s, same, folds, bootstrap=0).accuracy for s in (scores, worse))
    assert (found.accuracy, found.baseline) == (one, other)
    assert found.gain == pytest.approx(one - other)
    assert found.gain > 0.02
    back = accuracy_gain(worse, scores, same, folds, bootstrap=200)
    assert back.gain == -found.gain
    assert back.gain_ci == pytest.approx((-found.gain_ci[1], -found.gain_ci[0]), abs=0.02)


def test_interval_is_that_of_pairs_drawn_together(pairs: Callable[..., Pairs]) -> None:
    scores, same, folds = pairs()
    worse = scores + np.random.default_rng(1).normal(0, 0.5, len(scores))
    found = accuracy_gain(scores, worse, same, folds, bootstrap=4000)
    right = []
    for values in (scores, worse):
        thresholds = verification(values, same, folds, bootstrap=0).thresholds
        right.append([(v > thresholds[int(f)]) == s for v, s, f in zip(values, same, folds, strict=True)])
    size = {int(f): int((folds == f).sum()) for f in np.unique(folds)}
    weight = np.array([1 / size[int(f)] for f in folds])
    rng, gains = np.random.default_rng(7), []
    for _ in range(4000):
        drawn = np.concatenate([rng.choice(np.flatnonzero(kind), int(kind.sum())) for kind in (same, ~same)])
        one, other = (np.average(np.array(r)[drawn], weights=weight[drawn]) for r in right)
        gains.append(one - other)
    assert found.gain_ci == pytest.approx(np.quantile(gains, (0.025, 0.975)), abs=0.004)
    alone = verification(scores, same, folds, bootstrap=4000).accuracy_ci
    assert found.gain_ci[1] - found.gain_ci[0] < alone[1] - alone[0]  # what both get wrong cancels


def test_a_recogniser_gains_nothing_over_itself(pairs: Callable[..., Pairs]) -> None:
    scores, same, folds = pairs(step=0.5)
    found = accuracy_gain(scores, scores.copy(), same, folds, bootstrap=50)
    assert (found.gain, found.gain_ci) == (0.0, (0.0, 0.0))
    assert np.isnan(accuracy_gain(scores, scores, same, folds, bootstrap=0).gain_ci).all()


def test_what_cannot_be_compared_is_refused(pairs: Callable[..., Pairs]) -> None:
    scores, same, folds = pairs()
    with pytest.raises(ValueError, match="399 scores, 400 same"):
        accuracy_gain(scores, scores[1:], same, folds)
    with pytest.raises(ValueError, match="NaN or infinite"):
        accuracy_gain(scores * np.nan, scores, same, folds)


def test_the_share_decided_rightly_is_the_accuracy() -> None:
    random = np.random.default_rng(0)
    same, folds = np.arange(400) % 2 == 0, np.repeat(np.arange(4), 100)
    scores = random.normal(size=400) + same
    right = decided_rightly(scores, same, folds)
    assert right.mean() == pytest.approx(verification(scores, same, folds, bootstrap=0).accuracy, abs=1e-12)
