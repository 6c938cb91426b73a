"""The one loop that embeds images, against plain code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from lightning_app.evaluation.embed import Shown, embed_images, rank_share

IMAGES = torch.rand(7, 3, 4, 4, generator=torch.Generator().manual_seed(0))
MASK = torch.ones(1, 1, 4, 4)
MASK[..., :2] = 0


def weighted(image: Tensor, mask: Tensor | None, mask_index: Tensor | None) -> Tensor:
    """Tells left from right, and a mask from none."""
    seen = image if mask is None else image * mask[mask_index]
    return (seen * torch.arange(4)).mean((2, 3)).half()


def batches(size: int = 3) -> Iterator[list[Shown]]:
    for rows in rank_share(len(IMAGES), size):
        image, which = IMAGES[rows], torch.zeros(len(rows), dtype=torch.int64)
        yield [Shown(image, {"clean": weighted}), Shown(image, {"hidden": weighted}, MASK, which)]


def test_every_state_in_the_batches_order() -> None:
    ticks: list[int] = []
    found = embed_images(batches(), tick=ticks.append)
    which = torch.zeros(7, dtype=torch.int64)
    assert torch.equal(found["clean"], weighted(IMAGES, None, None).float())
    assert torch.equal(found["hidden"], weighted(IMAGES, MASK, which).float())
    assert found["clean"].dtype == torch.float32
    assert ticks == [3, 3, 1]


def test_flip_mirrors_image_and_mask() -> None:
    found = embed_images(batches(), flip=True)
    which = torch.zeros(7, dtype=torch.int64)
    mirrored = weighted(IMAGES.flip(-1), MASK.flip(-1), which)
    assert torch.equal(found["hidden"], (weighted(IMAGES, MASK, which) + mirrored).float())


def test_embedders_alone_run_in_the_precision() -> None:
    inside, log = [False], list[bool]()

    @contextmanager
    def precision() -> Iterator[None]:
        inside[0] = True
        yield
        inside[0] = False

    def shown() -> Iterator[list[Shown]]:
        for states in batches():
            assert not inside[0]
            yield states

    def noted(image: Tensor, mask: Tensor | None, mask_index: Tensor | None) -> Tensor:
        log.append(inside[0])
        assert not torch.is_grad_enabled()
        return image.flatten(1)

    embed_images(shown(), precision=precision)
    embed_images([[Shown(IMAGES, {"a": noted})]], precision=precision)
    assert log == [True]
    assert embed_images([]) == {}


@pytest.mark.parametrize(("count", "world"), [(7, 1), (7, 3), (2, 4), (0, 2)])
def test_ranks_share_without_padding(count: int, world: int) -> None:
    shares = [rank_share(count, 2, rank, world) for rank in range(world)]
    assert sorted(int(i) for share in shares for rows in share for i in rows) == list(range(count))
    assert all(1 <= len(rows) <= 2 for share in shares for rows in share)
