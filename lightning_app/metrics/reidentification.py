"""Re-identification: who is found again in a gallery, how alike two pictures of one face are, the worst off."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

EmbeddingMetric = Literal["cosine", "euclidean"]

_ROWS = 4096  # probes compared with the whole gallery at a time
_LEVEL = 0.95


def one_of_each(labels: Tensor) -> Tensor:
    """Choose a gallery: the first image of each person.

    Args:
        labels: `[N]` int64, person of each image; those below 0 are unknown and never chosen.

    Returns:
        Positions `[G]` int64, rising.

    Example:
        >>> one_of_each(torch.tensor([3, 3, -1, 0, 3, 0])).tolist()
        [0, 3]
    """
    seen: set[int] = set()
    first = []
    for place, label in enumerate(labels.tolist()):
        if label >= 0 and label not in seen:
            seen.add(label)
            first.append(place)
    return torch.tensor(first, dtype=torch.int64)


def similarity(a: Tensor, b: Tensor, metric: EmbeddingMetric = "cosine") -> Tensor:
    """Return how alike embeddings are, row by row.

    Args:
        a: `[N,D]`, of any length.
        b: the same shape.
        metric: `cosine` similarity, or minus the `euclidean` distance.

    Returns:
        `[N]` float32, higher = more alike: in [−1,1], and 0 where one of the two is zero; or at most 0.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(
            f"similarity: a is {list(a.shape)} and b {list(b.shape)}; give two [N,D] of one shape"
        )
    if metric == "euclidean":
        return -F.pairwise_distance(a.float(), b.float(), eps=0.0)
    return (F.normalize(a.float()) * F.normalize(b.float())).sum(1)


def mate_ranks(
    probes: Tensor,
    probe_labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    metric: EmbeddingMetric = "cosine",
) -> Tensor:
    """Return at which rank each probe finds its own person in a gallery.

    The rank is 1 + the number of entries of other people that are at least as similar as the best entry of the
    probe's own person. A tie counts against the probe: a judge that cannot decide has recognised nobody.

    Args:
        probes: `[N,D]` embeddings, of any length.
        probe_labels: `[N]` int64, person of each probe.
        gallery: `[G,D]` embeddings.
        gallery_labels: `[G]` int64.
        metric: by `cosine` similarity, or by `euclidean` distance.

    Returns:
        `[N]` int64 from 1; 0 for a probe whose person is unknown (label below 0) or not in the gallery.

    Raises:
        ValueError: shapes that do not belong together.

    Source: closed-set identification, cumulative match characteristic (ISO/IEC 19795-1).

    Example:
        >>> gallery = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> probes = torch.tensor([[0.9, 0.1], [0.9, 0.1]])
        >>> mate_ranks(probes, torch.tensor([0, 1]), gallery, torch.tensor([0, 1])).tolist()
        [1, 2]
    """
    for name, rows, labels in (("probe", probes, probe_labels), ("gallery", gallery, gallery_labels)):
        if rows.ndim != 2 or labels.shape != rows.shape[:1]:
            raise ValueError(
                f"mate_ranks: {name} embeddings are {list(rows.shape)} and labels {list(labels.shape)}; give "
                "[N,D] and [N]"
            )
    if len(probes) and len(gallery) and probes.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"mate_ranks: probes have {probes.shape[1]} numbers, the gallery {gallery.shape[1]}; embed both with "
            "one judge"
        )
    ranks = torch.zeros(len(probes), dtype=torch.int64, device=probes.device)
    if not len(gallery):
        return ranks
    entries = gallery.float() if metric == "euclidean" else F.normalize(gallery.float())
    for rows in torch.arange(len(probes), device=probes.device).split(_ROWS):
        if metric == "euclidean":
            scores = -torch.cdist(probes[rows].float(), entries)  # [n,G]
        else:
            scores = F.normalize(probes[rows].float()) @ entries.T
        own = probe_labels[rows, None] == gallery_labels[None]
        best = scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
        closer = ((scores >= best) & ~own).sum(1)
        known = own.any(1) & (probe_labels[rows] >= 0)
        ranks[rows] = torch.where(known, closer + 1, 0)
    return ranks


def rank_k(ranks: Tensor, k: int = 1) -> float:
    """Return the share of probes that find their person among the k most similar entries.

    Args:
        ranks: `[N]` int64 of `mate_ranks`; probes with 0 do not count.
        k: at least 1.

    Returns:
        In [0,1], higher = more people found again; nan where no probe counts.

    Raises:
        ValueError: k is below 1.

    Example:
        >>> rank_k(torch.tensor([1, 3, 0, 1]), k=1), rank_k(torch.tensor([1, 3, 0, 1]), k=3)
        (0.6666666666666666, 1.0)
    """
    if k < 1:
        raise ValueError(f"rank_k: k is {k}; give at least 1")
    counted = ranks[ranks > 0]
    return float((counted <= k).double().mean()) if len(counted) else float("nan")


def worst_identities(values: Tensor, labels: Tensor, quantile: float = _LEVEL) -> float:
    """Return what the people who are worst off meet: a quantile, over people, of each one's mean.

    Args:
        values: `[N]` per image, finite or infinite; higher = less private (give −x for what is the other way).
        labels: `[N]` int64, person of each image; images of unknown people (below 0) do not count.
        quantile: 0.95 leaves one person in twenty worse off still.

    Returns:
        In the values' unit; nan where no person is known.

    Raises:
        ValueError: lengths differ, or a quantile outside [0,1].

    Example:
        >>> worst_identities(torch.tensor([0.0, 1.0, 0.2, 0.4]), torch.tensor([0, 0, 1, 1]), quantile=1.0)
        0.5
    """
    if values.shape != labels.shape or values.ndim != 1:
        raise ValueError(
            f"worst_identities: values {list(values.shape)}, labels {list(labels.shape)}; give [N] each"
        )
    if not 0 <= quantile <= 1:
        raise ValueError(f"worst_identities: quantile is {quantile}; give a share from 0 to 1")
    sums, counts = _by_person(values[labels >= 0], labels[labels >= 0])
    # 'higher' names a person who is there, and does not subtract infinities
    return float(np.quantile(sums / counts, quantile, method="higher")) if len(sums) else float("nan")


def mean_over_people(
    values: Tensor, labels: Tensor, bootstrap: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Return a mean over images with its 95 % interval; whole people are resampled, not images.

    Images of one person are alike, so that resampling images would promise too narrow an interval.

    Args:
        values: `[N]` per image.
        labels: `[N]` int64, person of each; an image of an unknown one (below 0) stands for itself.
        bootstrap: resamples behind the percentile interval; 0 for none.
        seed: of the resamples.

    Returns:
        Mean, low and high; all infinite where the mean is; nan bounds without resamples, all nan without values.

    Raises:
        ValueError: lengths differ.
    """
    if values.shape != labels.shape or values.ndim != 1:
        raise ValueError(
            f"mean_over_people: values {list(values.shape)}, labels {list(labels.shape)}; give [N] each"
        )
    if not len(values):
        return (float("nan"),) * 3
    mean = float(values.double().mean())
    if not np.isfinite(mean):
        return mean, mean, mean
    alone = torch.arange(len(labels), device=labels.device) + int(labels.max()) + 1
    sums, counts = _by_person(values, torch.where(labels >= 0, labels, alone))
    if bootstrap < 1:
        return mean, float("nan"), float("nan")
    drawn = np.random.default_rng(seed).integers(0, len(sums), (bootstrap, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2))
    return mean, min(float(low), mean), max(float(high), mean)


def _by_person(
    values: Tensor, labels: Tensor
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Sum and number of the values of each person who is there."""
    _, person = np.unique(labels.cpu().numpy(), return_inverse=True)
    many = int(person.max()) + 1 if len(person) else 0
    numbers = values.double().cpu().numpy()
    sums = np.zeros(many)
    np.add.at(
        sums, person, numbers
    )  # bincount's weights would do, but not with infinities beside finite ones
    return sums, np.bincount(person, minlength=many).astype(np.float64)
