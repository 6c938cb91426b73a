"""An owner's part of a reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from datamodules.readers.base import FaceReader, Pixels
from datamodules.readers.subset import Subset
from lightning_app.core.batch import Batch


class OwnPeople(FaceReader):
    """A part of a reader whose classes are the people in it alone, numbered from 0.

    Args:
        reader: the whole.
        indices: `[n]` int64, positions in it; all images of these people, or some.
    """

    def __init__(self, reader: FaceReader, indices: Tensor) -> None:
        self.part = Subset(reader, indices)
        there = self.part.labels.unique()
        self._new = torch.full((len(reader.identities),), -1, dtype=torch.int64)
        self._new[there] = torch.arange(len(there))
        self.size, self.on_bad_image, self.crop = self.part.size, self.part.on_bad_image, self.part.crop
        self.identities = [reader.identities[label] for label in there.tolist()]
        self.labels = self._new[self.part.labels]
        self.classes_are_people, self.person = reader.classes_are_people, self.part.person

    def read(self, index: int) -> Pixels:
        """Decode one image of the part, see `FaceReader.read`."""
        return self.part.read(index)

    def places(self) -> list[Path]:
        """Return where the whole is read from."""
        return self.part.places()

    def name(self, index: int) -> str:
        """Return the name of an image of the part."""
        return self.part.name(index)

    def stable_name(self, index: int) -> str:
        """Return the name of an image within the whole set."""
        return self.part.stable_name(index)

    def content(self, index: int) -> bytes:
        """Return an image of the part as it is stored."""
        return self.part.content(index)

    def pixel_facts(self) -> dict[str, object]:
        """Return what the whole set returns."""
        return self.part.pixel_facts()

    def number(self, index: int) -> int:
        """Return the image's number in the whole."""
        return self.part.number(index)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Read a batch of the part with its own classes, see `FaceReader.__getitems__`."""
        batch = self.part.__getitems__(indices)
        if self.classes_are_people:
            return {**batch, "identity": self._new[batch["identity"]]}
        return {**batch, "target": self._new[batch["target"]]}


def part_of(reader: FaceReader, indices: Tensor, private_heads: bool) -> FaceReader:
    """Return an owner's part of a reader.

    Args:
        reader: the whole.
        indices: `[n]` int64, positions in it.
        private_heads: number the owner's own people from 0; else keep the classes of the whole.
    """
    return OwnPeople(reader, indices) if private_heads else Subset(reader, indices)
