"""How well classes are told apart, out of a confusion matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_Z = 1.959963984540054  # of a two-sided interval of 95 %


@dataclass(frozen=True)
class ClassificationResult:
    """What a confusion matrix says.

    Attributes:
        accuracy: share of images whose class was predicted, 0 … 1.
        interval: lower and upper end of its 95 % interval, see `wilson`.
        balanced_accuracy: mean recall of the classes that have images.
        precision: of each class; nan where it was never predicted.
        recall: of each class; nan where it has no images.
        images: of each class.
        predicted: how often each class was predicted.
        right: how often rightly.
    """

    accuracy: float
    interval: tuple[float, float]
    balanced_accuracy: float
    precision: list[float]
    recall: list[float]
    images: list[int]
    predicted: list[int]
    right: list[int]


def classification(matrix: Tensor) -> ClassificationResult:
    """Compute accuracy, and precision and recall of each class.

    precision_c = m_cc / Σ_t m_tc, recall_c = m_cc / Σ_p m_cp, balanced accuracy = the mean of recall_c.

    Args:
        matrix: `[C,C]` counts; rows are the true classes, columns the predicted ones, as torchmetrics has them.

    Raises:
        ValueError: it is not square, has a negative count, or is empty.

    Example:
        >>> import torch
        >>> found = classification(torch.tensor([[3, 1], [0, 4]]))
        >>> found.accuracy, found.precision, found.recall
        (0.875, [1.0, 0.8], [0.75, 1.0])
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or bool((matrix < 0).any()):
        raise ValueError(f"matrix of shape {list(matrix.shape)}: give [C,C] counts of 0 or more")
    counts = matrix.double()
    total = float(counts.sum())
    if total == 0:
        raise ValueError("matrix: it counts no image")
    right, images, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    precision, recall = right / predicted, right / images  # 0/0 is nan
    return ClassificationResult(
        accuracy=float(right.sum()) / total,
        interval=wilson(int(right.sum()), int(total)),
        balanced_accuracy=float(recall[images > 0].mean()),
        precision=precision.tolist(),
        recall=recall.tolist(),
        images=images.to(torch.int64).tolist(),
        predicted=predicted.to(torch.int64).tolist(),
        right=right.to(torch.int64).tolist(),
    )


def wilson(right: int, count: int) -> tuple[float, float]:
    """Compute the 95 % interval of a share by Wilson's score; it takes the images as independent.

    (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n), with p = right / count, n = count, z = 1.96.

    Args:
        right: 0 … count.
        count: at least 1.

    Returns:
        Lower and upper end, within 0 … 1.

    Raises:
        ValueError: the numbers are outside their range.

    Source: Wilson, 1927.

    Example:
        >>> [round(end, 4) for end in wilson(80, 100)]
        [0.7112, 0.8666]
    """
    if count < 1 or not 0 <= right <= count:
        raise ValueError(f"right={right}, count={count}: give 0 … count of at least one")
    p, z2 = right / count, _Z**2 / count
    middle = (p + z2 / 2) / (1 + z2)
    half = _Z * math.sqrt(p * (1 - p) / count + z2 / (4 * count)) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)
