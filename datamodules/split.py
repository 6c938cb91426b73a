"""Which images of a set are held out, which fall to a rank, and whether two sets are the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.on_device import Places
from datamodules.readers.base import FaceReader
from lightning_app.core.batch import Batch, labelled
from lightning_app.core.draws import hashed

_HOLD_OUT = 110  # salt of the draw that splits validation images off
_NAMES = 2**16  # most names that a digest is made of


def held_out(labels: Tensor, share: float, seed: int, keys: Tensor | None = None) -> Tensor:
    """Choose the validation images: of each identity's n images floor(n · share), those of the lowest keys, never all.

    With `name_keys` the choice hangs on seed and names alone: an image more or less changes nothing for other
    identities, and for its own at most which one image stands at the edge of the share.

    Args:
        labels: `[N]` int64.
        share: 0 … 1.
        seed: of the choice.
        keys: `[N]` int64, see `name_keys`; by default a function of (seed, image number), as FaceVeil drew before it
            drew by names.

    Returns:
        `[N]` bool, True for validation.
    """
    if share <= 0:
        return torch.zeros(len(labels), dtype=torch.bool)
    draw = hashed(torch.arange(len(labels)), _HOLD_OUT, seed) if keys is None else keys
    order = torch.argsort(draw, stable=True)
    order = order[torch.argsort(labels[order], stable=True)]  # by identity, drawn order within
    counts = torch.bincount(labels)
    starts = torch.cumsum(counts, 0) - counts
    place = torch.arange(len(labels)) - starts[labels[order]]
    chosen = torch.minimum((counts * share).floor().long(), counts - 1)
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[order] = place < chosen[labels[order]]
    return held


def name_keys(names: Iterable[str], seed: int) -> Tensor:
    """Hash names to uniform keys, each a function of (seed, name) alone.

    Args:
        names: of N images, see `FaceReader.stable_names`.
        seed: of the draw.

    Returns:
        `[N]` int64.
    """
    state = hashlib.blake2b(digest_size=8, key=str(seed).encode(), person=b"fv hold out")

    def key(name: str) -> bytes:
        own = state.copy()
        own.update(os.fsencode(name))
        return own.digest()

    return torch.from_numpy(np.frombuffer(b"".join(map(key, names)), "<i8").astype(np.int64))


class Share(Dataset[Batch]):
    """One rank's share of a set that the ranks go through once: every world-th image, none of them twice.

    Every rank has the same number of places, hence of batches, also where there are fewer images than ranks:
    Lightning refuses a loader that is empty on one rank alone, and DDP's wrapper waits for all ranks in the first
    forward of a validation. Where a rank has an image less, its last place is empty; a batch of this place alone
    has no image. A dataset and no batch sampler, for Lightning's `predict` puts the whole set into that.

    Args:
        reader: the whole set, or its places.
        rank: of this process.
        world: number of processes.
    """

    def __init__(self, reader: FaceReader | Places, rank: int = 0, world: int = 1) -> None:
        self.reader, self.rank, self.world = reader, rank, world

    def __len__(self) -> int:
        return -(-len(self.reader) // self.world)

    def __getitem__(self, place: int) -> Batch:
        return self.__getitems__([place])

    def __getitems__(self, places: Sequence[int]) -> Batch:
        """Read a batch, see `FaceReader.__getitems__`.

        Args:
            places: B positions in this share.
        """
        mine = [self.rank + place * self.world for place in places]
        mine = [index for index in mine if index < len(self.reader)]
        if mine:
            return self.reader.__getitems__(mine)
        return no_images(self.reader.size, getattr(self.reader, "classes_are_people", True))


class NoImages(Dataset[Batch]):
    """One empty batch, or several.

    Args:
        size: height and width its images would have.
        count: how many batches.
    """

    def __init__(self, size: int, count: int = 1) -> None:
        self.size, self.count = size, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Batch:
        return no_images(self.size)


def no_images(size: int, classes_are_people: bool = True) -> Batch:
    """Make an empty batch, as a reader would.

    Args:
        size: height and width its images would have.
        classes_are_people: see `FaceReader`.
    """
    none = torch.empty(0, dtype=torch.int64)
    pixels = torch.empty(0, 3, size, size, dtype=torch.uint8)
    return {
        "image": pixels,
        **labelled(none, None if classes_are_people else none),
        "index": none,
        "bad": none,
    }


def first_of(batches: list[Batch]) -> Batch:
    """Return a batch that a loader has wrapped into a list of one: the `collate_fn` of `NoImages`."""
    return batches[0]


def digest(reader: FaceReader) -> str:
    """Hash identities, labels and names in their order, not pixels: copies of one set have one digest.

    Of a set of more than 65,536 images so many names are hashed, evenly spread: an image more or less shifts
    those after it.

    Args:
        reader: of the set.

    Returns:
        SHA-256, in hex.
    """
    count = len(reader)
    named = torch.linspace(0, max(count - 1, 0), min(count, _NAMES), dtype=torch.float64).long().unique()
    words = [*reader.identities, *(reader.stable_name(index) for index in named.tolist())]
    found = hashlib.sha256(os.fsencode("\0".join(words)))
    found.update(np.ascontiguousarray(reader.labels.numpy()).tobytes())
    return found.hexdigest()
