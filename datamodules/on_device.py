"""A training set that lies on the device: the loader hands out places in it, and batches are gathered there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from datamodules.readers.base import FaceReader
from datamodules.readers.cached import CachedReader
from datamodules.readers.subset import Subset
from lightning_app.core.batch import Batch, labelled


class Places(Dataset[Batch]):
    """The images of a cached set, or of a part of it, as places: no pixel is read for a batch.

    `gathered` makes of such a batch, once it is on the device, what the part itself gives, bit for bit.

    Args:
        part: the cached set, or a `Subset` of it.

    Raises:
        TypeError: the part is none of that.
        ValueError: its images are mixes, whose labels lie elsewhere.
    """

    def __init__(self, part: FaceReader) -> None:
        whole = part.reader if isinstance(part, Subset) else part
        if not isinstance(whole, CachedReader):
            raise TypeError(f"{type(part).__name__} is no part of a cached set")
        if len(part) and part.mixed_labels([0]):
            raise ValueError(
                "data.cache: device, but the images are mixes, whose labels do not go there: give cache: true"
            )
        self.size = part.size
        row = part.indices.clone() if isinstance(part, Subset) else torch.arange(len(part))
        given = [whole.given[row]] + ([] if whole.given_people is None else [whole.given_people[row]])
        number = torch.tensor([part.number(index) for index in range(len(part))], dtype=torch.int64)
        self._bad = torch.isin(number, whole.bad)
        if isinstance(part, Subset):  # replaced from within the part
            for index in self._bad.nonzero().flatten().tolist():
                other, _ = part.replacement(index)
                at = torch.tensor([other])
                row[index], given[0][index] = part.indices[other], part.labels[other]
                if (people := part.who(at)) is not None:
                    given[1][index] = people[0]
        self._table = torch.stack([row, number, *given])  # one small copy to the device a batch, not three
        self._any_bad = bool(self._bad.any())

    def __len__(self) -> int:
        return self._table.shape[1]

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a batch of names.

        Args:
            indices: B positions in the part.

        Returns:
            `places` `[3,B]` int64: where the pixels lie, number of the image, class; of a task `[4,B]`, with the
            person; and `bad [K]`, if any are.
        """
        at = torch.tensor(indices, dtype=torch.int64)
        batch: Batch = {"places": self._table.index_select(1, at)}
        if self._any_bad:
            batch["bad"] = batch["places"][1][self._bad[at]]
        return batch


def gathered(batch: Batch, cached: CachedReader) -> Batch:
    """Gather a batch on its device; the pixels are brought there if they lie elsewhere.

    Args:
        batch: with `places`, see `Places`.
        cached: the whole set.

    Returns:
        `image` uint8 `[B,3,size,size]`, `identity`, of a task `target`, and `index`; of images that have a mask each
        `mask_bits` and `mask_index`.

    Raises:
        ValueError: the set does not fit on the device.
    """
    row, index, classes, *people = batch["places"].unbind()
    cached.to(row.device)
    image = cached.pixels.index_select(0, row).expand(-1, cached.pixel_shape[0], -1, -1)
    labels = labelled(classes, people[0] if people else None)
    return {"image": image, **labels, "index": index, **cached.masks_at(row)}
