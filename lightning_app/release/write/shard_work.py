"""What the processes of `desensitize` do of representations: read, desensitize, quantise, shard after shard."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.readers.base import FaceReader, Pixels
from lightning_app.release.format.tensors import Layout
from lightning_app.release.write.journal import Done
from lightning_app.release.write.plan import ShardPlan
from lightning_app.release.write.representing import Made, Representer
from lightning_app.release.write.work import Work


class ShardWork(Work):
    """The shards of a release.

    Args:
        reader: the raw set.
        represent: the desensitizer.
        plan: names and order.
        output: the released folder.
        batch_size: images desensitized at a time; where images are mixed it is all of a shard.
    """

    plan: ShardPlan

    def __init__(
        self, reader: FaceReader, represent: Representer, plan: ShardPlan, output: Path, batch_size: int
    ) -> None:
        super().__init__(reader, None, plan, output, 0, batch_size)
        self.represent = represent

    def __len__(self) -> int:
        return self.plan.shards

    def places(self, batch: int) -> range:
        """Return the places of a shard's images in the plan."""
        return self.plan.places(batch)

    def make(self, batch: int) -> list[Done]:
        """Read, desensitize, quantise and write the images of a shard; tell what became of each."""
        sources = {place: self.source(place) for place in self.places(batch)}
        read = {place: self._read(place) for place in self.places(batch)}
        done = {place: found for place, found in read.items() if isinstance(found, Done)}
        pixels = {place: found for place, found in read.items() if not isinstance(found, Done)}
        name = self.plan.file(self.places(batch)[0])
        if pixels:
            writing = _Shard(self, pixels)
            self._put(name, writing.parts())
            digest, clipped = writing.hash.hexdigest(), writing.clipped
            for place in pixels:
                done[place] = Done(digest, 1, clipped=clipped)
                clipped = 0  # told once
        else:
            (self.output / name).unlink(missing_ok=True)
        return [done[place]._replace(size=size, mtime_ns=mtime) for place, (size, mtime) in sources.items()]

    def made(self, pixels: Mapping[int, Pixels]) -> Made:
        """Desensitize some images of a shard together.

        Args:
            pixels: place in the plan -> what the reader gives.
        """
        at = [self.plan.index(place) for place in pixels]
        numbers = [self.reader.number(index) for index in at]
        return self.represent(list(pixels.values()), self._labels[at].tolist(), numbers)


class _Shard:
    """One shard while it is written: its bytes part by part, so that no more than a batch is held as floats."""

    def __init__(self, work: ShardWork, pixels: Mapping[int, Pixels]) -> None:
        self.hash = hashlib.sha256()
        self.clipped = 0
        self._work, self._pixels = work, pixels

    def parts(self) -> Iterator[memoryview]:
        """Yield the file's bytes; they are hashed on their way."""
        for part in self._parts():
            self.hash.update(part)
            yield part

    def _parts(self) -> Iterator[memoryview]:
        work, plan, places = self._work, self._work.plan, list(self._pixels)
        stored, mixed = work.represent.stored, work.represent.mixed
        yield memoryview(Layout.of(stored, mixed, len(places)).head)
        labels = work._labels[[plan.index(place) for place in places]][:, None]
        batch = len(places) if mixed > 1 else work.batch_size
        made: Made | None = None
        if mixed > 1:  # who is mixed stands before what is mixed
            made = work.made(self._pixels)
            assert made.weight is not None
            labels = made.labels
            yield _bytes(made.weight)
        yield _bytes(np.stack([plan.name(place) for place in places]))
        yield _bytes(plan.people(labels))
        for start in range(0, len(places), batch):
            if made is None or mixed == 1:
                made = work.made({place: self._pixels[place] for place in places[start : start + batch]})
            self.clipped += made.clipped
            yield _bytes(made.image)


def _bytes(values: NDArray[Any]) -> memoryview:
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).data
