"""How images are handed to the ranks: loaders, and the sets that they read."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset

from datamodules.loader import TimedLoader
from datamodules.on_device import Places
from datamodules.pixels import PixelDataModule
from datamodules.readers.bad_images import BadImages
from datamodules.readers.base import FaceReader, whole
from datamodules.readers.cached import CachedReader
from datamodules.resumable import ignore_signals
from datamodules.split import Share
from lightning_app.core.batch import Batch
from lightning_app.distributed.ranks import union

log = logging.getLogger("faceveil")


@dataclass
class Served:
    """A set that loaders read, and what was met while reading it.

    Attributes:
        reader: the set, cached where that is asked for.
        released: its images were desensitized where they come from.
        bad: numbers of its images that could not be decoded.
        on_device: the cache that lies on the device; None where there is none.
        warned: how many bad images were told of.
    """

    reader: FaceReader
    released: bool
    bad: BadImages
    on_device: CachedReader | None = None
    warned: int = 0

    @classmethod
    def of(cls, reader: FaceReader, cache: object, released: bool) -> Served:
        """Open a set.

        Args:
            reader: of it.
            cache: keep it in memory: True, False or `device`.
            released: see above.
        """
        kept = CachedReader(reader) if cache else reader
        on_device = kept if cache == "device" and isinstance(kept, CachedReader) else None
        return cls(kept, released, BadImages(len(kept)), on_device)

    def warn_of_bad_images(self) -> None:
        """Count the bad images of all ranks, which come here at the same step; tell of new ones.

        Raises:
            ValueError: the set has too many of them.
        """
        self.bad.add(union(self.bad.numbers))
        self.bad.check(self.reader.why_bad)
        if len(self.bad.numbers) > self.warned:
            self.warned = len(self.bad.numbers)
            log.warning(self.bad.warning(self.reader.why_bad))


class ServingDataModule(PixelDataModule):
    """Make the loaders of a set.

    Attributes:
        global_batch_size: images per step over all processes; each takes an equal share.
        num_workers: processes that read images.
    """

    global_batch_size: int
    num_workers: int

    @property
    def batch_size(self) -> int:
        """Images per step of this process: its share of the global batch.

        Raises:
            ValueError: the global batch cannot be dealt to the ranks in equal shares.
        """
        world = self.trainer.world_size if self.trainer else 1
        if self.global_batch_size % world:
            raise ValueError(
                f"data.global_batch_size={self.global_batch_size} on {world} ranks: every rank takes an equal share; "
                f"give a multiple of {world}"
            )
        return self.global_batch_size // world

    def _evaluation_loader(self, reader: FaceReader | Places, on_device: bool) -> DataLoader[Batch]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        share = Share(reader, rank, world)
        most = max(1, len(share) // self._fewest_batches())
        return self._loader(share, on_device, batch_size=min(self.batch_size, most))

    def _fewest_batches(self) -> int:
        """Count the batches that a share of them (`limit_val_batches: 0.1` and its like) needs to be at least one."""
        trainer: Any = self.trainer
        if trainer is None or trainer.state.fn is None:
            return 1
        name = {"fit": "val", "validate": "val", "test": "test", "predict": "predict"}[
            str(trainer.state.fn.value)
        ]
        limit = getattr(trainer, f"limit_{name}_batches")
        return math.ceil(1 / limit) if isinstance(limit, float) and 0 < limit < 1 else 1

    def _loader(self, reader: Dataset[Batch], on_device: bool, **order: Any) -> TimedLoader:
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        places = isinstance(
            getattr(reader, "reader", reader), Places
        )  # nothing to read, nothing worth pinning
        # pixels on the device are not for other processes
        workers = 0 if places or on_device else self.num_workers
        return TimedLoader(
            reader,
            **order,
            collate_fn=whole,
            num_workers=workers,
            worker_init_fn=ignore_signals,
            persistent_workers=workers > 0,
            pin_memory=on_cuda and not places,
        )
