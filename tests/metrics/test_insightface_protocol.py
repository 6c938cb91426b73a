"""InsightFace's protocol against one written out from its description, threshold by threshold, fold by fold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from callbacks import LFWVerification
from lightning_app.metrics import Verification, verification

Embeddings = NDArray[np.float64]


def _pairs(
    seed: int, pairs: int = 200, dim: int = 16, noise: float = 0.9
) -> tuple[Embeddings, Embeddings, NDArray[np.bool_]]:
    """Embeddings of images and of their mirror images, summed; every second pair is of one person."""
    rng = np.random.default_rng(seed)
    same = np.arange(pairs) % 2 == 0
    person = rng.normal(size=(pairs, dim))
    first, second = (2 * person + noise * rng.normal(size=(2, *person.shape)).sum(0) for _ in range(2))
    second[~same] = rng.normal(size=(int((~same).sum()), dim)) * 2
    return first, second, same


def _unit(rows: Embeddings) -> Embeddings:
    unit: Embeddings = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _written_out(
    first: Embeddings, second: Embeddings, same: NDArray[np.bool_]
) -> tuple[float, float, list[float]]:
    """Accuracy, its deviation and the ten thresholds, with plain loops."""
    distance = ((_unit(first) - _unit(second)) ** 2).sum(1)
    grid = np.arange(0, 4, 0.01)
    blocks = np.array_split(np.arange(len(same)), 10)  # ten of consecutive pairs, the first ones larger
    accuracies, thresholds = [], []
    for block in blocks:
        others = np.setdiff1d(np.arange(len(same)), block)
        best, chosen = -1.0, 0.0
        for threshold in grid:
            share = np.mean([(distance[i] < threshold) == same[i] for i in others])
            if share > best:
                best, chosen = share, float(threshold)
        thresholds.append(chosen)
        accuracies.append(np.mean([(distance[i] < chosen) == same[i] for i in block]))
    return float(np.mean(accuracies)), float(np.std(accuracies)), thresholds


@pytest.mark.parametrize(("seed", "noise"), [(0, 0.9), (1, 1.6), (2, 3.0)])
def test_as_written_out(seed: int, noise: float) -> None:
    first, second, same = _pairs(seed, noise=noise)
    accuracy, std, thresholds = _written_out(first, second, same)
    scores = (_unit(first) * _unit(second)).sum(1)
    folds = np.repeat(np.arange(10), 20)
    found = verification(scores, same, folds, bootstrap=20, protocol="insightface")
    assert found.accuracy == pytest.approx(accuracy, abs=1e-12)
    assert found.std == pytest.approx(std, abs=1e-12)
    assert [2 - 2 * found.thresholds[k] for k in range(10)] == pytest.approx(thresholds, abs=1e-12)
    assert found.accuracy_ci[0] <= found.accuracy <= found.accuracy_ci[1]
    assert 0.5 < found.accuracy < 1
    lfw = verification(scores, same, folds, bootstrap=20)
    assert (lfw.auc, lfw.eer, lfw.tar_at_far) == (found.auc, found.eer, found.tar_at_far)
    assert lfw.thresholds != found.thresholds


def test_the_grid_and_the_midpoints_differ() -> None:
    """Scores nearer than the grid's step: LFW's protocol parts them, InsightFace's cannot."""
    scores = np.array([0.9001, 0.9, 0.9001, 0.9])
    same = np.array([True, False, True, False])
    folds = np.array([0, 0, 1, 1])
    assert verification(scores, same, folds, bootstrap=0).accuracy == 1.0
    assert verification(scores, same, folds, bootstrap=0, protocol="insightface").accuracy == 0.5


def test_the_metric_hands_it_on() -> None:
    first, second, same = _pairs(4, noise=1.6)
    scores, folds = (_unit(first) * _unit(second)).sum(1), np.repeat(np.arange(10), 20)
    metric = Verification(bootstrap=0, protocol="insightface")
    given = [torch.from_numpy(values) for values in (scores, same, folds)]
    metric.update(given[0], given[1], given[2], torch.arange(200))
    expected = verification(scores, same, folds, bootstrap=0, protocol="insightface")
    assert metric.compute()["lfw/accuracy"] == expected.accuracy


def test_bad_input() -> None:
    scores, same, folds = np.array([5.0, 1.0, 5.0, 1.0]), np.array([True, False] * 2), np.array([0, 0, 1, 1])
    with pytest.raises(ValueError, match="protocol insightface takes cosines, and a score is 5"):
        verification(scores, same, folds, protocol="insightface")
    with pytest.raises(ValueError, match="protocol is 'ijb'; give lfw or insightface"):
        verification(scores, same, folds, protocol="ijb")  # type: ignore[arg-type]


def test_the_callback_adds_the_mirror_image() -> None:
    drawn = Path("x")
    assert LFWVerification(root=drawn, protocol="insightface").flip is True
    assert LFWVerification(root=drawn).flip is False
    with pytest.raises(ValueError, match="protocol='ijb': give lfw or insightface"):
        LFWVerification(root=drawn, protocol="ijb")  # type: ignore[arg-type]
