"""The order of images as a function of (seed, epoch), the same on any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from lightning_app.core.draws import seed_from

_ORDER = 100  # salt of this draw


class EpochBatchSampler(Sampler[list[int]]):
    """Batches of a permutation drawn from (seed, epoch), dealt to ranks; resumable at any batch.

    Global batch number b holds images `order[b·G : (b+1)·G]` (G = the batch over all ranks) and rank r takes
    its r-th slice, so that another number of ranks with the same global batch sees the same images at the
    same step.

    Args:
        count: images in the set.
        batch_size: images per rank and step.
        seed: of the order.
        shuffle: False keeps the set's own order.
        drop_last: drop the last incomplete global batch; kept batches are never padded.
        rank: of this process.
        world: number of processes.

    Raises:
        ValueError: an epoch would have no batch.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if drop_last and count < batch_size * world:
            raise ValueError(
                f"data.global_batch_size={batch_size * world} is more than the {count} training images: lower it"
            )
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.shuffle, self.drop_last, self.rank, self.world = shuffle, drop_last, rank, world
        self.epoch = 0
        self.start = 0

    @property
    def sampler(self) -> EpochBatchSampler:
        """Return itself: Lightning calls `set_epoch` on a batch sampler's `sampler` at the start of every epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        group = self.batch_size * self.world
        return self.count // group if self.drop_last else -(-self.count // group)

    def __iter__(self) -> Iterator[list[int]]:
        if self.shuffle:
            generator = torch.Generator().manual_seed(seed_from(_ORDER, self.seed, self.epoch))
            order = torch.randperm(self.count, generator=generator)
        else:
            order = torch.arange(self.count)
        group = self.batch_size * self.world
        first, self.start = self.start, 0  # a resumed epoch starts late, once
        for b in range(first, len(self)):
            mine = order[b * group + self.rank * self.batch_size :][: self.batch_size]
            yield mine[
                : max(0, min(self.batch_size, self.count - b * group - self.rank * self.batch_size))
            ].tolist()
