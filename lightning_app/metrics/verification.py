"""Face verification by LFW's protocol: accuracy over folds, AUC, EER, TAR@FAR, each with its interval."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lightning_app.core.log_keys import measurement
from lightning_app.core.measurement import Measurement, flat

Numbers: TypeAlias = "Tensor | npt.ArrayLike"
Protocol: TypeAlias = Literal["lfw", "insightface"]
Interval: TypeAlias = tuple[float, float]
_Floats: TypeAlias = npt.NDArray[np.float64]
_Ints: TypeAlias = npt.NDArray[np.int64]
_Bools: TypeAlias = npt.NDArray[np.bool_]

log = logging.getLogger("faceveil")
_MIX = 0.1  # by how much the share of same-person pairs of a fold may differ from all pairs' without a word
_NEGATIVES = 10  # a FAR is reported where at least so many false accepts stand behind it
LEVEL = 0.95
_GRID = np.arange(0, 4, 0.01)  # InsightFace's thresholds, of squared distances
_CHUNK = 2**18  # entries of one block of resamples: 2 MiB an array, so that it stays in cache


@dataclass(frozen=True)
class VerificationResult:
    """What a list of scored pairs says about a recogniser; shares in [0,1], intervals of 95 %.

    Attributes:
        accuracy: mean over folds of the share of pairs decided rightly.
        std: standard deviation of that share over folds (ddof 0).
        auc: area under the ROC curve.
        eer: equal error rate, lower is better.
        tar_at_far: true accept rate for each false accept rate that has ten negatives behind it.
        thresholds: by fold label, the threshold chosen on the other folds.
        accuracy_ci: (low, high); (nan, nan) where no bootstrap was asked for, as below.
        auc_ci: (low, high).
        eer_ci: (low, high).
        tar_at_far_ci: (low, high) for each key of `tar_at_far`.
    """

    accuracy: float
    std: float
    auc: float
    eer: float
    tar_at_far: dict[float, float]
    thresholds: dict[int, float]
    accuracy_ci: Interval
    auc_ci: Interval
    eer_ci: Interval
    tar_at_far_ci: dict[float, Interval]

    @property
    def threshold(self) -> float:
        """Mean of the folds' thresholds: two faces whose score is above it are taken for one person.

        NaN where every pair has one score, which no threshold parts.
        """
        finite = [one for one in self.thresholds.values() if np.isfinite(one)]
        return float(np.mean(finite)) if finite else float("nan")

    def measurements(self, prefix: str = "lfw", suffix: str = "") -> list[Measurement]:
        """Return the metrics with their intervals, the accuracy with its spread over folds, and the threshold.

        Args:
            prefix: first part of the log keys, before the slash; empty for neither.
            suffix: what ends every key, for example `_s2` for situation 2.
        """
        head = f"{prefix}/" if prefix else ""
        found = {
            "accuracy": (self.accuracy, self.accuracy_ci, self.std),
            "auc": (self.auc, self.auc_ci, None),
            "eer": (self.eer, self.eer_ci, None),
        } | {
            f"tar_at_far_{_far_name(far)}": (tar, self.tar_at_far_ci[far], None)
            for far, tar in self.tar_at_far.items()
        }
        if not np.isnan(self.threshold):
            found["threshold"] = (self.threshold, (np.nan, np.nan), None)
        made = []
        for name, (value, (low, high), std) in found.items():
            bounded = not np.isnan(low)
            one = measurement(
                f"{head}{name}{suffix}", value, low if bounded else None, high if bounded else None, std
            )
            # a prefix or suffix of the user's own is in no table
            made.append(replace(one, tail=suffix, std_key="" if std is None else f"{head}std{suffix}"))
        return made

    def as_dict(self, prefix: str = "lfw", suffix: str = "") -> dict[str, float]:
        """Return `measurements` under flat log keys such as `lfw/accuracy_low_s2`; no interval, no such key.

        Args:
            prefix: what stands before the slash; empty for neither.
            suffix: put behind every key as it is, for example `_s2` for situation 2.
        """
        return flat(self.measurements(prefix, suffix))


def _far_name(far: float) -> str:
    # 0.01 -> 1e-2, 0.025 -> 2.5e-2
    mantissa, exponent = f"{far:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def as_array(values: Numbers) -> npt.NDArray[Any]:
    """Turn a tensor or anything NumPy takes into an array."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.double() if values.is_floating_point() else values).numpy()  # NumPy knows no bf16
    return np.asarray(values)


def _check(scores: Numbers, same: Numbers, folds: Numbers) -> tuple[_Floats, _Bools, _Ints]:
    scores, same, folds = as_array(scores), as_array(same), as_array(folds)
    for name, values in (("scores", scores), ("same", same), ("folds", folds)):
        if values.ndim != 1:
            raise ValueError(
                f"verification: {name} has shape {list(values.shape)}; give one value per pair, [P]"
            )
    if not len(scores) == len(same) == len(folds):
        raise ValueError(
            f"verification: {len(scores)} scores, {len(same)} same and {len(folds)} folds; "
            "give one of each per pair"
        )
    if len(scores) == 0:
        raise ValueError("verification: scores is empty; give at least one pair of each kind in two folds")
    if not np.issubdtype(scores.dtype, np.floating):
        raise ValueError(f"verification: scores is {scores.dtype}; give floats, higher = more alike")
    strange = ~np.isfinite(scores)
    if strange.any():
        raise ValueError(
            f"verification: {strange.sum()} of {len(scores)} scores are NaN or infinite, the first at "
            f"{strange.argmax()}; look for zero or diverged embeddings"
        )
    if same.dtype != np.bool_ and not (np.issubdtype(same.dtype, np.integer) and np.isin(same, (0, 1)).all()):
        raise ValueError(f"verification: same is {same.dtype}; give bool, True = the same person")
    if not np.issubdtype(folds.dtype, np.integer):
        raise ValueError(f"verification: folds is {folds.dtype}; give the integer fold of each pair")
    same = same.astype(np.bool_)
    if same.all() or not same.any():
        kind = "same" if same.all() else "different"
        raise ValueError(
            f"verification: all {len(same)} pairs are {kind}-person pairs; give pairs of both kinds"
        )
    labels = np.unique(folds)
    if len(labels) < 2:
        raise ValueError(f"verification: all pairs are in fold {labels[0]}; give at least two folds")
    for fold in labels:
        others = same[folds != fold]
        if others.all() or not others.any():
            kind = "different" if others.all() else "same"
            raise ValueError(
                f"verification: outside fold {fold} there is no {kind}-person pair to choose its threshold "
                "on; spread both kinds over the folds"
            )
    _check_mix(same, folds)
    return scores.astype(np.float64), same, folds.astype(np.int64)


def _check_mix(same: _Bools, folds: _Ints) -> None:
    """Refuse folds of one kind, and say so where their mixes differ: their thresholds are chosen on other mixes."""
    labels, fold = np.unique(folds, return_inverse=True)
    counts = np.stack([np.bincount(fold[same == kind], minlength=len(labels)) for kind in (True, False)])
    for kind, count in zip(("same", "different"), counts, strict=True):
        if not count.all():
            at = int(count.argmin())
            raise ValueError(
                f"verification: fold {labels[at]} has {counts[0, at]} same-person and {counts[1, at]} different pairs: "
                f"no {kind}-person pair; deal both kinds evenly over the folds"
            )
    if (np.ptp(counts, axis=1) <= 1).all():  # of small folds the mix cannot be nearer
        return
    share = counts[0] / counts.sum(0)
    if (off := abs(share - same.mean())).max() > _MIX:
        at = int(off.argmax())
        log.warning(
            "verification: %.0f %% of the pairs of fold %s are of one person, of all pairs %.0f %%: its threshold is "
            "chosen on another mix; deal both kinds evenly over the folds.",
            100 * share[at], labels[at], 100 * same.mean(),
        )  # fmt: skip


def _best_threshold(values: _Floats, positives: _Ints, negatives: _Ints) -> float:
    """Return the lowest of the thresholds that decide most pairs rightly.

    Args:
        values: `[K]` distinct scores, rising.
        positives: `[K]` number of same-person pairs at each.
        negatives: `[K]` number of different-person pairs at each.
    """
    seen = positives + negatives > 0
    values, positives, negatives = values[seen], positives[seen], negatives[seen]
    # the j-th candidate rejects the j lowest values
    right = positives.sum() + np.concatenate(([0], np.cumsum(negatives - positives)))
    below, above = values[:-1], values[1:]
    middle = below + (above - below) / 2
    middle = np.where(middle < above, middle, below)  # neighbouring floats have none between them
    if len(middle) == 0:  # one score for all: nothing lies between, so accept all or none
        return float(-np.inf if right[0] >= right[-1] else np.inf)
    return float(middle[right[1:-1].argmax()])


def _grid_thresholds(scores: _Floats, same: _Bools, fold: _Ints, folds: int) -> tuple[_Floats, _Bools]:
    """Choose each fold's threshold on the others as InsightFace does.

    Args:
        scores: `[P]` cosines.
        same: `[P]`.
        fold: `[P]` place of each pair's fold.
        folds: how many there are.

    Returns:
        The squared distance chosen for each fold, below which two faces are one person's; `[P]`, whether each pair is
        decided rightly by it.
    """
    distance = np.maximum(2 - 2 * scores, 0)
    # of a fold's pairs, how many each threshold decides rightly
    right = np.zeros((folds, len(_GRID)), np.int64)
    for number in range(folds):
        here = fold == number
        near, far = np.sort(distance[here & same]), np.sort(distance[here & ~same])
        right[number] = np.searchsorted(near, _GRID) + len(far) - np.searchsorted(far, _GRID)
    chosen = _GRID[(right.sum(0) - right).argmax(1)]  # the lowest of ties
    return chosen, (distance < chosen[fold]) == same


def _curve_metrics(positives: _Ints, negatives: _Ints, limits: Sequence[int]) -> _Floats:
    """Return AUC, EER and one TAR per limit of R samples, `[R, 2 + len(limits)]`.

    Args:
        positives: `[R,K]` same-person pairs at each distinct score, highest score first.
        negatives: `[R,K]` different-person pairs likewise.
        limits: false accepts allowed.
    """
    # Counts are integers throughout, so equal rates compare as equal; tied scores are one step of the curve.
    start = np.zeros((len(positives), 1), np.int64)
    tp = np.concatenate((start, positives.cumsum(1)), 1)
    fp = np.concatenate((start, negatives.cumsum(1)), 1)
    num_p, num_n = int(tp[0, -1]), int(fp[0, -1])
    metrics = np.empty((len(positives), 2 + len(limits)))
    metrics[:, 0] = (negatives * (tp[:, :-1] + tp[:, 1:])).sum(1) / (2 * num_p * num_n)
    # FAR − FRR rises from −1 to 1; the EER lies where the straight line over its change of sign meets 0
    gap = fp * num_p + tp * num_n - num_p * num_n
    after = (gap < 0).sum(1, keepdims=True)
    gap_0, gap_1 = np.take_along_axis(gap, after - 1, 1), np.take_along_axis(gap, after, 1)
    fp_0, fp_1 = np.take_along_axis(fp, after - 1, 1), np.take_along_axis(fp, after, 1)
    metrics[:, 1] = ((fp_0 - (fp_1 - fp_0) * gap_0 / (gap_1 - gap_0)) / num_n)[:, 0]
    for column, limit in enumerate(limits, start=2):
        last = (fp <= limit).sum(1, keepdims=True) - 1
        metrics[:, column] = (np.take_along_axis(tp, last, 1) / num_p)[:, 0]
    return metrics


def _histogram(codes: _Ints, bins: int) -> _Ints:
    # [R,n] codes in [0,bins) -> [R,bins] counts, all rows in one pass
    rows = np.arange(len(codes))[:, None] * bins
    return np.bincount((codes + rows).ravel(), minlength=len(codes) * bins).reshape(-1, bins)


def resamples(counts: Sequence[int], bootstrap: int, seed: int) -> Iterator[list[_Ints]]:
    """Draw resamples with replacement, within each class, a block of them at a time.

    Args:
        counts: pairs of each class.
        bootstrap: number of resamples in all.
        seed: of the draws.

    Yields:
        One `[R,n]` array of indices per class; R differs from block to block.
    """
    rng = np.random.default_rng(seed)
    block = max(1, _CHUNK // sum(counts))
    for start in range(0, bootstrap, block):
        rows = min(block, bootstrap - start)
        yield [rng.integers(0, count, (rows, count)) for count in counts]


def verification(
    scores: Numbers,
    same: Numbers,
    folds: Numbers,
    *,
    fars: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4),
    bootstrap: int = 1000,
    seed: int = 0,
    protocol: Protocol = "lfw",
) -> VerificationResult:
    """Score pairs of faces by LFW's protocol (image-restricted, folds as the file gives them), or by InsightFace's.

    *Folds.* Each has to have both kinds of pairs, in the mix of the others; where the share of same-person pairs of a
    fold is more than 0.1 off, and the folds' counts differ by more than a pair, a line says so. Lists that readers give
    have such folds (`datamodules.verification.pair_folds`).

    *Accuracy.* Each fold's threshold is chosen on the other folds: among the midpoints of the distinct scores
    seen there, the one that decides most pairs rightly, the lowest of ties. Two faces are the
    same person if their score is strictly above it. Accuracy is the mean over folds, std its deviation
    (ddof 0). It is the share of pairs decided rightly: where there are more pairs of one kind, always answering so
    is right in more than half of them, and metrics of other mixes cannot be compared with it.

    *InsightFace's protocol* takes its thresholds from a grid: 0 to 4 by 0.01 in the squared distance of normalised
    embeddings, 2 − 2 · cosine. The one that decides most pairs of the other folds rightly is taken, the smallest of
    ties, and two faces are the same person if their distance is below it. Its embeddings are sums of an image's and its
    mirror image's, which is up to whoever makes the scores. Only accuracy, std and thresholds depend on the protocol.

    *AUC, EER, TAR@FAR* count all pairs at once. The ROC curve joins its points, one per distinct score, by
    straight lines (tied scores are one step). EER is the FAR where FAR = 1 − TAR on it. TAR@FAR takes no
    interpolation: it is the highest TAR of a threshold whose FAR is at most the one asked. A FAR with fewer
    than ten negatives behind it (far · negatives < 10) is left out.

    *Intervals* are 95 % percentile bootstrap intervals over pairs, widened to the estimate where that falls
    outside. Pairs are resampled within the same-person and within the different-person pairs, whose numbers
    the protocol fixes. For the accuracy the decisions of the folds' thresholds are resampled, each pair
    weighted as in the mean over folds; the thresholds are not chosen anew.

    Args:
        scores: `[P]` floats, higher = more alike; cosine similarity by design.
        same: `[P]` bool, True = the same person.
        folds: `[P]` integers, any labels, at least two of them.
        fars: false accept rates in (0,1) to report the true accept rate at.
        bootstrap: number of resamples; 0 for no intervals.
        seed: of the resamples.
        protocol: how the thresholds are chosen, `lfw` or `insightface`; the latter takes scores for cosines.

    Returns:
        The metrics, shares in [0,1]; thresholds are scores with either protocol.

    Raises:
        ValueError: lengths differ, scores not finite, pairs of one kind only (in all, in a fold, or in all folds
            but one), fewer than two folds, a FAR outside (0,1), a negative bootstrap.

    Source: Huang et al., "Labeled Faces in the Wild", UMass TR 07-49, section III (View 2, with the standard
    deviation over folds in place of the standard error). InsightFace, recognition, `verification.py`, `evaluate`.

    Example:
        >>> result = verification([0.9, 0.2, 0.8, 0.4], [True, False, True, False], [1, 1, 2, 2])
        >>> result.accuracy, result.auc, result.eer
        (1.0, 1.0, 0.0)
        >>> {fold: round(threshold, 2) for fold, threshold in result.thresholds.items()}
        {1: 0.6, 2: 0.55}
    """
    for far in fars:
        if not 0 < far < 1:
            raise ValueError(f"verification: fars holds {far}; give rates between 0 and 1")
    if bootstrap < 0:
        raise ValueError(f"verification: bootstrap is {bootstrap}; give the number of resamples, 0 for none")
    if protocol not in ("lfw", "insightface"):
        raise ValueError(f"verification: protocol is {protocol!r}; give lfw or insightface")
    score, is_same, fold_of = _check(scores, same, folds)
    if protocol == "insightface" and abs(score).max() > 1 + 1e-3:
        raise ValueError(
            f"verification: protocol insightface takes cosines, and a score is {score[abs(score).argmax()]:g}: give "
            "scalar products of normalised embeddings"
        )

    values, code = np.unique(score, return_inverse=True)
    bins = len(values)
    positives = np.bincount(code[is_same], minlength=bins)
    negatives = np.bincount(code[~is_same], minlength=bins)

    labels, fold = np.unique(fold_of, return_inverse=True)
    size = np.bincount(fold)
    thresholds = np.zeros(len(labels))
    for number in range(len(labels) if protocol == "lfw" else 0):
        here = fold == number
        thresholds[number] = _best_threshold(
            values,
            positives - np.bincount(code[here & is_same], minlength=bins),
            negatives - np.bincount(code[here & ~is_same], minlength=bins),
        )
    right = (score > thresholds[fold]) == is_same
    if protocol == "insightface":
        chosen, right = _grid_thresholds(score, is_same, fold, len(labels))
        thresholds = 1 - chosen / 2
    shares = np.bincount(fold, weights=right) / size

    # the tolerance takes 0.001 · 10000 negatives for the ten they are
    allowed = {float(far): int(far * negatives.sum() + 1e-9) for far in fars}
    allowed = {far: limit for far, limit in allowed.items() if limit >= _NEGATIVES}
    limits = list(allowed.values())
    curve = _curve_metrics(positives[None, ::-1], negatives[None, ::-1], limits)[0]
    estimate = np.concatenate(([shares.mean()], curve))

    # [positives, negatives] of: place on the curve, weight in the accuracy, weight of those decided rightly
    split = (is_same, ~is_same)
    place = [bins - 1 - code[kind] for kind in split]
    weight = [1 / size[fold[kind]] for kind in split]
    won = [w * right[kind] for w, kind in zip(weight, split, strict=True)]
    rows = []
    for drawn in resamples([len(p) for p in place], bootstrap, seed):
        share = sum(w[d].sum(1) for w, d in zip(won, drawn, strict=True))
        share = share / sum(w[d].sum(1) for w, d in zip(weight, drawn, strict=True))
        pos, neg = (_histogram(p[d], bins) for p, d in zip(place, drawn, strict=True))
        rows.append(np.column_stack((share, _curve_metrics(pos, neg, limits))))
    if rows:
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(np.concatenate(rows), (tail, 1 - tail), axis=0)
        low, high = np.minimum(low, estimate), np.maximum(high, estimate)
    else:
        low = high = np.full(len(estimate), np.nan)
    accuracy, auc, eer, *tars = estimate.tolist()
    accuracy_ci, auc_ci, eer_ci, *tars_ci = zip(low.tolist(), high.tolist(), strict=True)
    return VerificationResult(
        accuracy=accuracy,
        std=float(shares.std()),
        auc=auc,
        eer=eer,
        tar_at_far=dict(zip(allowed, tars, strict=True)),
        thresholds=dict(zip(labels.tolist(), thresholds.tolist(), strict=True)),
        accuracy_ci=accuracy_ci,
        auc_ci=auc_ci,
        eer_ci=eer_ci,
        tar_at_far_ci=dict(zip(allowed, tars_ci, strict=True)),
    )
