"""Classification against scikit-learn, torchmetrics and SciPy-free closed forms."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassPrecision, MulticlassRecall

from lightning_app.metrics import classification as module
from lightning_app.metrics.classification import classification, wilson


def test_equals_scikit_learn_and_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    predicted[:120] = true[:120]
    y, p = torch.from_numpy(true), torch.from_numpy(predicted)
    matrix = MulticlassConfusionMatrix(4)(p, y)
    found = classification(matrix)
    precision, recall, _, images = precision_recall_fscore_support(true, predicted)
    assert found.precision == pytest.approx(precision.tolist())
    assert found.recall == pytest.approx(recall.tolist())
    assert found.images == images.tolist()
    assert found.accuracy == pytest.approx((true == predicted).mean())
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(true, predicted))
    assert found.precision == pytest.approx(MulticlassPrecision(4, average=None)(p, y).tolist())
    assert found.recall == pytest.approx(MulticlassRecall(4, average=None)(p, y).tolist())


def test_a_class_without_images_or_predictions_has_no_value() -> None:
    found = classification(torch.tensor([[2, 0, 1], [0, 0, 0], [0, 0, 3]]))
    assert math.isnan(found.recall[1])
    assert math.isnan(found.precision[1])
    assert found.balanced_accuracy == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize(("right", "count"), [(0, 5), (5, 5), (17, 40), (1600, 1921)])
def test_an_end_of_the_interval_is_where_the_score_test_turns(right: int, count: int) -> None:
    """|p̂ − p| = 1.96 √(p(1−p)/n) holds at both ends, where they are not cut."""
    low, high = wilson(right, count)
    for end in (low, high):
        if 0 < end < 1:
            assert abs(right / count - end) == pytest.approx(
                1.95996 * math.sqrt(end * (1 - end) / count), rel=1e-4
            )
    assert 0 <= low <= right / count <= high <= 1


def test_bad_matrices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"matrix of shape \[2, 3\]"):
        classification(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="it counts no image"):
        classification(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="right=3, count=2"):
        wilson(3, 2)
    assert doctest.testmod(module).failed == 0
