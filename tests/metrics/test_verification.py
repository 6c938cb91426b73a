from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from datamodules.verification.pair_folds import deal_folds
from lightning_app.metrics import VerificationResult, verification

Pairs = tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.int64]]
MakePairs = Callable[..., Pairs]


def slow_accuracy(
    scores: npt.NDArray[np.float64], same: npt.NDArray[np.bool_], folds: npt.NDArray[np.int64]
) -> tuple[float, float, dict[int, float]]:
    """The protocol written out: every threshold tried on every fold."""
    accuracies, thresholds = [], {}
    for fold in sorted(set(folds.tolist())):
        seen = sorted(set(scores[folds != fold].tolist()))
        candidates = [(low + high) / 2 for low, high in pairwise(seen)]
        best, best_right = np.nan, -1
        for threshold in candidates:
            right = sum(
                (score > threshold) == is_same
                for score, is_same, other in zip(scores, same, folds, strict=True)
                if other != fold
            )
            if right > best_right:
                best, best_right = threshold, right
        here = folds == fold
        accuracies.append(np.mean((scores[here] > best) == same[here]))
        thresholds[fold] = best
    return float(np.mean(accuracies)), float(np.std(accuracies)), thresholds


def slow_tar(scores: npt.NDArray[np.float64], same: npt.NDArray[np.bool_], far: float) -> float:
    best = 0.0
    for threshold in [-np.inf, *scores]:
        if np.mean(scores[~same] > threshold) <= far:
            best = max(best, float(np.mean(scores[same] > threshold)))
    return best


# P, folds, step between tied scores
CASES = [(300, 10, 0.0), (300, 10, 0.5), (257, 5, 0.1), (120, 2, 0.0), (90, 2, 2.0), (200, 7, 0.25)]


@pytest.mark.parametrize(("count", "folds", "step"), CASES)
def test_verification_agrees_with_the_protocol_written_out(
    pairs: MakePairs, count: int, folds: int, step: float
) -> None:
    scores, same, fold = pairs(count, folds, step)
    assert len(set(np.bincount(fold)[np.unique(fold)])) > 1, "folds of uneven size"
    assert len(np.unique(fold)) == folds
    result = verification(scores, same, fold, fars=(0.5, 0.2, 0.1, 1e-3), bootstrap=0)
    accuracy, std, thresholds = slow_accuracy(scores, same, fold)
    assert result.accuracy == pytest.approx(accuracy, abs=1e-12)
    assert result.std == pytest.approx(std, abs=1e-12)
    assert result.thresholds == pytest.approx(thresholds, abs=1e-12)
    assert result.tar_at_far == pytest.approx(
        {far: slow_tar(scores, same, far) for far in (0.5, 0.2, 0.1) if far * (~same).sum() >= 10}, abs=1e-12
    )


@pytest.mark.parametrize(("count", "folds", "step"), CASES)
@pytest.mark.parametrize("drop", [True, False])
def test_auc_and_eer_agree_with_sklearn(
    pairs: MakePairs, count: int, folds: int, step: float, drop: bool
) -> None:
    scores, same, fold = pairs(count, folds, step)
    result = verification(scores, same, fold, bootstrap=0)
    assert result.auc == pytest.approx(roc_auc_score(same, scores), abs=1e-12)
    fpr, tpr, _ = roc_curve(same, scores, drop_intermediate=drop)
    low, high = 0.0, 1.0
    for _ in range(60):  # bisection for FAR = 1 − TAR on the curve joined by straight lines
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - middle > np.interp(middle, fpr, tpr) else (low, middle)
    assert result.eer == pytest.approx(low, abs=1e-9)


def test_by_hand() -> None:
    #            fold 7: one wrong           fold 1: all right at 0.5
    scores = [0.9, 0.6, 0.3, 0.1, 0.8, 0.7, 0.3, 0.2]
    same = [True, False, True, False, True, True, False, False]
    folds = [7, 7, 7, 7, 1, 1, 1, 1]
    result = verification(scores, same, folds, fars=(0.1,), bootstrap=50)
    # On fold 1 all is right from 0.5; on fold 7 three are right at 0.2, 0.75 and only there.
    assert result.thresholds == pytest.approx({1: 0.2, 7: 0.5})
    # Fold 1 at 0.2: 0.3 is accepted wrongly, 0.2 is not above. Fold 7 at 0.5: 0.6 and 0.3 are wrong.
    assert result.accuracy == pytest.approx((0.75 + 0.5) / 2)
    assert result.std == pytest.approx(0.125)
    # Of 16 (same, different) couples 0.3 loses to 0.6 and ties with 0.3.
    assert result.auc == pytest.approx((16 - 1 - 0.5) / 16)
    # FAR 1/4 and FRR 1/4 from just below 0.6 on.
    assert result.eer == pytest.approx(0.25)
    assert result.tar_at_far == {}  # 0.1 of four negatives are not ten


def test_thresholds_lie_between_scores_even_where_accepting_all_or_none_would_do_better() -> None:
    # fold 0 would be best served by accepting all, fold 1 by rejecting all
    result = verification(
        [0.1, 0.2, 0.3, 0.1, 0.2, 0.3],
        [True, True, False, False, False, True],
        [0, 0, 0, 1, 1, 1],
        bootstrap=0,
    )
    # of fold 0: 1 of 3 right at 0.15, 0 at 0.25; of fold 1: 2 at 0.15, 3 at 0.25
    assert result.thresholds == pytest.approx({0: 0.25, 1: 0.15})


def test_one_score_for_all_accepts_all_or_none() -> None:
    result = verification([0.5] * 6, [True, True, False, False, False, True], [0, 0, 0, 1, 1, 1], bootstrap=0)
    assert result.thresholds == {0: np.inf, 1: -np.inf}
    assert result.accuracy == pytest.approx((1 / 3 + 1 / 3) / 2)


def test_neighbouring_floats_are_told_apart() -> None:
    # their midpoint rounds to the one or the other: "strictly above" must still part them
    for below in (1.0, np.nextafter(1.0, 2)):
        above = np.nextafter(below, 2)
        result = verification([below, above] * 2, [False, True] * 2, [0, 0, 1, 1], bootstrap=0)
        assert result.accuracy == 1


def test_tar_counts_ten_negatives_exactly() -> None:
    # of negatives 0 … 999 ten lie above 989.5 and eleven above 988.5
    scores = np.concatenate((np.arange(1000.0), [988.5, 989.5, 5000.0]))
    same = np.arange(len(scores)) >= 1000
    folds = np.arange(len(scores)) % 2
    tar = verification(scores, same, folds, fars=(1e-2, 9.9e-3), bootstrap=0).tar_at_far
    assert tar == {1e-2: pytest.approx(2 / 3)}
    # an eleventh at the tie: no threshold parts it from the tenth
    scores[988], scores[1001] = 989, 988.7
    tar = verification(scores, same, folds, fars=(1e-2,), bootstrap=0).tar_at_far
    assert tar == {1e-2: pytest.approx(1 / 3)}


def test_intervals_contain_the_estimate_and_are_seeded(pairs: MakePairs) -> None:
    for seed in range(5):
        scores, same, fold = pairs(300, 5, 0.0, seed)
        result = verification(scores, same, fold, fars=(0.1,), bootstrap=200, seed=1)
        for low, value, high in (
            (result.accuracy_ci[0], result.accuracy, result.accuracy_ci[1]),
            (result.auc_ci[0], result.auc, result.auc_ci[1]),
            (result.eer_ci[0], result.eer, result.eer_ci[1]),
            (result.tar_at_far_ci[0.1][0], result.tar_at_far[0.1], result.tar_at_far_ci[0.1][1]),
        ):
            assert 0 <= low <= value <= high <= 1
            assert low < high
        assert verification(scores, same, fold, fars=(0.1,), bootstrap=200, seed=1) == result
        other = verification(scores, same, fold, fars=(0.1,), bootstrap=200, seed=2)
        assert other.auc_ci != result.auc_ci
        assert other.auc == result.auc


def test_intervals_shrink_with_the_number_of_pairs(pairs: MakePairs) -> None:
    def widths(count: int) -> npt.NDArray[np.float64]:
        result = verification(*pairs(count, 10), fars=(0.1,), bootstrap=300)
        return np.array(
            [high - low for low, high in (result.accuracy_ci, result.auc_ci, result.eer_ci)]
            + [result.tar_at_far_ci[0.1][1] - result.tar_at_far_ci[0.1][0]]
        )

    ratio = widths(8000) / widths(500)
    assert (ratio > 0.1).all()  # 1/4 is expected: sixteen times the pairs
    assert (ratio < 0.5).all()


def test_intervals_have_the_width_theory_gives(pairs: MakePairs) -> None:
    scores, same, fold = pairs(4000, 10)
    result = verification(scores, same, fold, bootstrap=1000)
    share = result.accuracy
    wanted = 2 * 1.96 * np.sqrt(share * (1 - share) / len(scores))  # a binomial share's
    assert result.accuracy_ci[1] - result.accuracy_ci[0] == pytest.approx(wanted, rel=0.15)
    # Hanley and McNeil's standard error of the AUC
    auc, positives, negatives = result.auc, same.sum(), (~same).sum()
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)) / (
        positives * negatives
    )
    assert result.auc_ci[1] - result.auc_ci[0] == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.15)


def test_inputs_may_be_tensors_arrays_or_lists(pairs: MakePairs) -> None:
    scores, same, fold = pairs(100, 4, 0.25)
    wanted = verification(scores, same, fold, bootstrap=20)
    tensors = torch.tensor(scores, requires_grad=True), torch.tensor(same), torch.tensor(fold)
    assert verification(*tensors, bootstrap=20) == wanted
    assert verification(scores.tolist(), same.astype(int).tolist(), fold.tolist(), bootstrap=20) == wanted
    assert verification(tensors[0].bfloat16(), *tensors[1:], bootstrap=20) == wanted  # quarters are exact


def test_as_dict_gives_log_keys() -> None:
    result = VerificationResult(
        accuracy=0.9,
        std=0.01,
        auc=0.95,
        eer=0.1,
        tar_at_far={1e-1: 0.8, 1e-2: 0.5, 2.5e-3: 0.3},
        thresholds={1: 0.5, 2: 0.25, 3: float("inf")},
        accuracy_ci=(0.88, 0.92),
        auc_ci=(0.94, 0.96),
        eer_ci=(0.09, 0.11),
        tar_at_far_ci={1e-1: (0.7, 0.9), 1e-2: (0.4, 0.6), 2.5e-3: (0.2, 0.4)},
    )
    flat = result.as_dict(suffix="_s2")
    assert flat["lfw/accuracy_s2"] == 0.9
    assert flat["lfw/std_s2"] == 0.01
    assert flat["lfw/accuracy_low_s2"] == 0.88
    assert flat["lfw/tar_at_far_1e-2_high_s2"] == 0.6
    assert flat["lfw/tar_at_far_2.5e-3_s2"] == 0.3
    assert flat["lfw/threshold_s2"] == 0.375  # the mean of those that part some pairs
    assert len(flat) == 1 + 3 * 6 + 1
    assert result.as_dict(prefix="")["eer_low"] == 0.09
    assert list(result.as_dict("own"))[:4] == [
        "own/accuracy",
        "own/std",
        "own/accuracy_low",
        "own/accuracy_high",
    ]


def test_no_bootstrap_no_interval_keys(pairs: MakePairs) -> None:
    result = verification(*pairs(400, 4), fars=(0.1,), bootstrap=0)
    assert set(result.as_dict()) == {
        "lfw/accuracy", "lfw/std", "lfw/auc", "lfw/eer", "lfw/tar_at_far_1e-1", "lfw/threshold",
    }  # fmt: skip


def test_one_score_for_all_pairs_has_no_threshold() -> None:
    result = verification([0.5] * 4, [True, False, True, False], [1, 1, 2, 2], bootstrap=0)
    assert np.isnan(result.threshold)
    assert "lfw/threshold" not in result.as_dict()


OK: dict[str, Any] = {
    "scores": [0.9, 0.1, 0.8, 0.2],
    "same": [True, False, True, False],
    "folds": [0, 0, 1, 1],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [0.9, 0.1, 0.8]}, "3 scores, 4 same and 4 folds"),
        ({"scores": [[0.9, 0.1, 0.8, 0.2]]}, r"scores has shape \[1, 4\]; give one value per pair"),
        ({"scores": [0.9, np.nan, np.nan, 0.2]}, "2 of 4 scores are NaN or infinite, the first at 1"),
        ({"scores": [0.9, 0.1, np.inf, 0.2]}, "1 of 4 scores are NaN or infinite, the first at 2"),
        ({"scores": [1, 0, 1, 0]}, "scores is int64; give floats"),
        ({"same": [1, 2, 1, 2]}, "same is int64; give bool"),
        ({"same": [1.0, 0.0, 1.0, 0.0]}, "same is float64; give bool"),
        ({"same": [True] * 4}, "all 4 pairs are same-person pairs"),
        ({"same": [False] * 4}, "all 4 pairs are different-person pairs"),
        ({"folds": [5] * 4}, "all pairs are in fold 5; give at least two folds"),
        ({"folds": [0.0, 0.0, 1.0, 1.0]}, "folds is float64; give the integer fold"),
        ({"same": [True, True, True, False]}, "outside fold 1 there is no different-person pair"),
        ({"same": [True, False, False, False]}, "outside fold 0 there is no same-person pair"),
        ({"fars": (0.1, 2)}, "fars holds 2; give rates between 0 and 1"),
        ({"bootstrap": -1}, "bootstrap is -1; give the number of resamples"),
        ({"scores": [], "same": [], "folds": []}, "scores is empty"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^verification: {message}") as error:
        verification(**{**OK, **change})
    assert "\n" not in str(error.value)


def test_folds_as_even_as_they_can_be_are_not_complained_of(caplog: pytest.LogCaptureFixture) -> None:
    same = np.array([True] * 18 + [False] * 15)
    folds = deal_folds(same)  # 1 or 2 of either kind in each, so from 33 to 67 % of one person
    verification(np.linspace(1, 0, 33), same, folds, bootstrap=0)
    assert not caplog.messages
    folds[np.flatnonzero(same)[:8:2]] = 9
    verification(np.linspace(1, 0, 33), same, folds, bootstrap=0)
    (line,) = caplog.messages
    assert "deal both kinds evenly over the folds" in line
