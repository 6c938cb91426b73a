"""How alike a desensitized face and its own clean one look to a judge, beside what two strangers look like."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_app.metrics.reidentification import mate_ranks, mean_over_people, rank_k, similarity

_ROUNDING = 1e-6  # of the largest value, of float32 embeddings


@dataclass(frozen=True)
class FaceSimilarity:
    """What a judge makes of images and their desensitized versions.

    Attributes:
        mean: cosine of a desensitized image and its own clean one, mean over images, in [−1,1].
        low: of its 95 % interval, images resampled.
        high: likewise.
        impostor: the same cosine of a desensitized image and the clean ones of others: the level that says nothing.
        rank1: share of desensitized images whose own clean one is the most similar of all, in [0,1].
    """

    mean: float
    low: float
    high: float
    impostor: float
    rank1: float


def face_similarity(seen: Tensor, clean: Tensor, bootstrap: int = 1000) -> FaceSimilarity:
    """Compare embeddings of desensitized images with those of the same clean images, row by row.

    Embeddings of faces lie in a narrow cone: without more, two strangers come to a cosine near that of one person,
    and a mask that all wear moves every embedding alike. So each side's mean is subtracted first, which whoever has
    both sets can do as well.

    Args:
        seen: `[N,D]` embeddings of desensitized images, or of what an attack made of them.
        clean: `[N,D]`, of the same images before.
        bootstrap: resamples behind the interval; 0 for none.

    Returns:
        The similarity. A judge that sees one and the same in all images gives 0 throughout.

    Raises:
        ValueError: the shapes differ, or there are fewer than two images.

    Source: "face similarity" of the third paper (4, Evaluation), centred.

    Example:
        >>> clean = torch.tensor([[5.0, 1.0], [5.0, -1.0]])
        >>> found = face_similarity(clean, clean, bootstrap=0)
        >>> found.mean, found.impostor, found.rank1
        (1.0, -1.0, 1.0)
    """
    if seen.shape != clean.shape or seen.ndim != 2 or len(seen) < 2:
        raise ValueError(
            f"face_similarity: {list(seen.shape)} and {list(clean.shape)}; give two [N,D] of one shape, N at least 2"
        )
    a, b = (_centred(side.double()) for side in (seen, clean))
    count = len(a)
    own = similarity(a, b).double()
    strangers = torch.arange(count)
    mean, low, high = mean_over_people(own, torch.full_like(strangers, -1), bootstrap)
    unit_a, unit_b = F.normalize(a), F.normalize(b)
    others = (unit_a.sum(0) @ unit_b.sum(0) - (unit_a * unit_b).sum()) / (count * (count - 1))
    ranks = mate_ranks(a.float(), strangers, b.float(), strangers)
    return FaceSimilarity(mean, low, high, float(others), rank_k(ranks))


def _centred(side: Tensor) -> Tensor:
    """Subtract the mean; what is left of equal embeddings is rounding, and no direction."""
    centred = side - side.mean(0)
    return torch.where(centred.abs() > _ROUNDING * side.abs().max(), centred, 0.0)
