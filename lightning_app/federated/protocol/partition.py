"""How a set of faces lies with its owners: pure functions of labels, owners, seed and alpha."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lightning_app.core.draws import seed_from

Partition = Literal["images", "identities", "dirichlet", "own"]
_SALT = 0x6F776E72  # "ownr": names the draw

GIVES = {
    "images": "images dealt at random, every owner has images of nearly everybody: one head, which travels",
    "identities": "people dealt at random, every owner has its own: heads stay with their owners",
    "dirichlet": "images of each person dealt unequally, the more so the smaller alpha: one head, which travels",
    "own": "every owner has its own set: heads stay with their owners",
}


def deal(labels: Tensor, owners: int, how: Partition, seed: int = 0, alpha: float = 0.5) -> list[Tensor]:
    """Deal a set's images to owners: disjoint, and all of them.

    `images` deals a permutation of all images in turn, so that shares differ by one image at most. `identities`
    deals a permutation of all people in turn, with all their images; shares differ by one person at most, and by
    more in images. `dirichlet` draws for each person the owners' shares from a symmetric Dirichlet distribution
    and cuts a permutation of the person's images at them.

    Args:
        labels: `[N]` int64, class index of each image.
        owners: how many.
        how: `images`, `identities` or `dirichlet`.
        seed: of the draws.
        alpha: of the Dirichlet distribution; 100 is nearly equal shares, 0.1 gives most people to one owner.

    Returns:
        For each owner the sorted positions `[n]` int64 of its images.

    Raises:
        ValueError: an argument is out of range, or an owner would have nothing.

    Source: Dirichlet shares per class: Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural
    Networks", ICML 2019, section 4.
    """
    if owners < 1:
        raise ValueError(f"clients={owners}: give at least 1")
    if how == "dirichlet":
        parts = _dirichlet(labels, owners, seed, alpha)
    elif how == "identities":
        people = labels.unique()
        owner_of = torch.empty(len(people), dtype=torch.int64)
        owner_of[_permutation(len(people), seed)] = torch.arange(len(people)) % owners
        own = owner_of[torch.searchsorted(people, labels)]
        parts = [torch.nonzero(own == owner).flatten() for owner in range(owners)]
    elif how == "images":
        order = _permutation(len(labels), seed)
        parts = [order[owner::owners].sort().values for owner in range(owners)]
    else:
        raise ValueError(f"partition: {how!r}; choose images, identities or dirichlet")
    for owner, part in enumerate(parts):
        if len(part) == 0:
            raise ValueError(
                f"partition: owner {owner} of {owners} would have no image ({len(labels)} images of "
                f"{len(labels.unique())} people): take fewer clients, a larger alpha or another seed_everything"
            )
    return parts


def partition_table(labels: Tensor, parts: list[Tensor]) -> tuple[list[str], list[list[object]]]:
    """Return what a partition gives each owner.

    Args:
        labels: `[N]` int64 of the whole.
        parts: of the owners, as `deal` gives them.

    Returns:
        The table's heads, and its rows: owner, images, people, people nobody else has, and the distance of the
        owner's label distribution from the whole's (total variation: 0 the same, 1 nothing in common).
    """
    heads = ["owner", "images", "people", "nobody else's", "distance"]
    classes = int(labels.max()) + 1
    counts = torch.stack([torch.bincount(labels[part], minlength=classes) for part in parts])
    whole = counts.sum(0).double() / counts.sum()
    alone = (counts > 0).sum(0) == 1
    rows: list[list[object]] = []
    for owner, count in enumerate(counts):
        distance = float((count.double() / count.sum() - whole).abs().sum() / 2)
        people = count > 0
        rows.append(
            [str(owner), int(count.sum()), int(people.sum()), int((people & alone).sum()), f"{distance:.3f}"]
        )
    return heads, rows


def _permutation(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed_from(_SALT, seed)))


def _dirichlet(labels: Tensor, owners: int, seed: int, alpha: float) -> list[Tensor]:
    if not alpha > 0:
        raise ValueError(f"alpha={alpha}: give a positive number")
    draw = np.random.default_rng(seed_from(_SALT, seed))
    parts: list[list[Tensor]] = [[] for _ in range(owners)]
    for person in labels.unique().tolist():
        images = torch.nonzero(labels == person).flatten()
        images = images[torch.from_numpy(draw.permutation(len(images)))]
        shares = draw.dirichlet(np.full(owners, alpha))
        edges = [0, *np.floor(shares.cumsum()[:-1] * len(images) + 1e-9).astype(int).tolist(), len(images)]
        for owner in range(owners):
            parts[owner].append(images[edges[owner] : edges[owner + 1]])
    return [torch.cat(part).sort().values for part in parts]
