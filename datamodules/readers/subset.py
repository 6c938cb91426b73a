"""Part of a reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.readers.bad_images import BadImage
from datamodules.readers.base import FaceReader, Pixels
from lightning_app.core.batch import Batch, labelled


class Subset(FaceReader):
    """Part of a reader, with the classes and image numbers of the whole.

    A bad image is replaced from within the part, so that parts stay disjoint. Where its identity has no other
    good image in the part but has one in the whole, the next good image of the part stands in, with its own
    identity.

    Args:
        reader: the whole.
        indices: `[n]` int64, positions in it, in the order the part shall have.
    """

    def __init__(self, reader: FaceReader, indices: Tensor) -> None:
        self.reader = reader
        self.indices = indices.to(torch.int64)
        self.size = reader.size
        self.identities = reader.identities
        self.labels = reader.labels[self.indices]
        self.classes_are_people = reader.classes_are_people
        self.person = None if reader.person is None else reader.person[self.indices]
        self.on_bad_image, self.stored, self.crop = reader.on_bad_image, reader.stored, reader.crop
        self.released, self.own_masks, self.few_masks = reader.released, reader.own_masks, reader.few_masks

    def places(self) -> list[Path]:
        """Return where the whole is read from."""
        return self.reader.places()

    def read(self, index: int) -> Pixels:
        """Decode one image of the part, see `FaceReader.read`."""
        return self.reader.read(int(self.indices[index]))

    def encoded(self, index: int) -> bytes | None:
        """Return the bytes of an image's file, see `FaceReader.encoded`."""
        return self.reader.encoded(int(self.indices[index]))

    def name(self, index: int) -> str:
        """Return the name of an image of the part."""
        return self.reader.name(int(self.indices[index]))

    def file(self, index: int) -> str:
        """Return the path of an image's file, see `FaceReader.file`."""
        return self.reader.file(int(self.indices[index]))

    def stable_name(self, index: int) -> str:
        """Return the name of an image within the whole set."""
        return self.reader.stable_name(int(self.indices[index]))

    def content(self, index: int) -> bytes:
        """Return an image of the part as it is stored."""
        return self.reader.content(int(self.indices[index]))

    def pixel_facts(self) -> dict[str, object]:
        """Return what the whole set returns."""
        return self.reader.pixel_facts()

    def mixed_labels(self, indices: Sequence[int]) -> Batch:
        """Return the labels of mixes, see `FaceReader.mixed_labels`."""
        return self.reader.mixed_labels(self.indices[torch.tensor(indices, dtype=torch.int64)].tolist())

    def masks(self, indices: Sequence[int]) -> Batch:
        """Return the masks of images, see `FaceReader.masks`."""
        return self.reader.masks(self.indices[torch.tensor(indices, dtype=torch.int64)].tolist())

    def number(self, index: int) -> int:
        """Return the image's number in the whole."""
        return self.reader.number(int(self.indices[index]))

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Read a batch of the part, see `FaceReader.__getitems__`."""
        at = self.indices[torch.tensor(indices, dtype=torch.int64)]
        batch = self.reader.__getitems__(at.tolist())
        taken = list(indices)
        # the whole's replacements may lie outside the part
        for row in torch.isin(batch["index"], batch["bad"]).nonzero().flatten().tolist():
            other, pixels = self.replacement(indices[row])
            batch["image"][row] = torch.from_numpy(np.ascontiguousarray(pixels))
            taken[row], at = other, torch.tensor([other])
            for key, value in labelled(self.labels[at], self.who(at)).items():
                batch[key][row] = value  # type: ignore[literal-required]
        if taken != list(indices):
            batch.update(self.masks(taken))
        return batch

    def replacement(self, index: int) -> tuple[int, Pixels]:
        """Find the next good image within the part, of the same identity where there is one."""
        try:
            return super().replacement(index)
        except BadImage:
            self.reader.replacement(int(self.indices[index]))  # raises where the whole identity is bad
            found = self._next_good(index, torch.arange(len(self)))
            if found is None:
                raise
            return found
