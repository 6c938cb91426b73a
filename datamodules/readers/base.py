"""What every source of faces has in common: compact, map-style, whole batches of uint8 pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info
from typing_extensions import Self

from datamodules.readers.bad_images import BadImage
from lightning_app.core.batch import Batch, labelled
from lightning_app.desensitize import Desensitizer
from lightning_app.release.format.tensors import Stored

if TYPE_CHECKING:
    from datamodules.verification.pair_list import PairList

Pixels = NDArray[np.uint8]
OnBadImage = Literal["replace", "error"]


class FaceReader(Dataset[Batch], ABC):
    """Map-style source of faces; a subclass sets the attributes and decodes one image.

    `DataLoader(reader, batch_size=B, collate_fn=whole)` yields whole batches: torch's fetcher calls
    `__getitems__`, which fills one array for all B images.

    Attributes:
        size: height and width of the images it yields, in pixels.
        identities: names of the classes, sorted; the position is the class index.
        labels: `[N]` int64, class index of each image.
        classes_are_people: each class is a person. False of a task such as emotion: batches then have the class as
            `target` and the person, where known, as `identity`; and the names of the classes may be written down.
        person: `[N]` int64, who is on each image, -1 where it is not known; None where nobody is known, or where the
            classes are the people.
        on_bad_image: 'replace' puts the next good image of the same identity in the place of one that cannot
            be decoded; 'error' raises `BadImage`.
        strict: refuse (`BadImage`) what a release must not make do with: files that lie outside the tree,
            images that are not upright.
        allow_lossy_webp: take WebP images that are coded with loss; a release refuses them unless told otherwise.
        stored: how its images are stored, where they are representations that were released; None of pixels.
        released: its images were desensitized where they come from, see `desensitizer`.
        own_masks: its images come with a mask each, see `masks`.
        few_masks: these are some of a few: batches have all of the few, else one for each image.
        crop: what is cut out of an image's file before it is resized: a box (left, top, right, bottom) in its pixels,
            or the side of a central square; None takes the whole image.
        pairs: a list of pairs of its images, to verify on; None where it has none.
        of_nobody: whether nobody's face is on its images, which may then be shown to anybody. A subclass may read
            anything else than its base, so it never inherits this: it states it, or its faces are somebody's.
    """

    size: int
    identities: list[str]
    labels: Tensor
    classes_are_people: bool = True
    person: Tensor | None = None
    on_bad_image: OnBadImage = "replace"
    strict: bool = False
    allow_lossy_webp: bool = True
    stored: Stored | None = None
    released: bool = False
    own_masks: bool = False
    few_masks: bool = False
    crop: int | tuple[int, int, int, int] | None = None
    pairs: PairList | None = None
    of_nobody: ClassVar[bool] = False

    def __init_subclass__(cls, **more: Any) -> None:
        """Take faces for somebody's where a class does not say itself that they are nobody's."""
        super().__init_subclass__(**more)
        if "of_nobody" not in vars(cls):
            cls.of_nobody = False

    def scan(self) -> None:
        """Scan the set: set `identities`, `labels` and what else `read` needs.

        A reader whose set is costly to look through, or may be absent, does it here and not when it is made:
        `validate` makes the training set's reader for its size alone.

        Raises:
            FileNotFoundError, ValueError: the set cannot be used; the message says why.
        """
        if "identities" in self.__dict__ and "labels" in self.__dict__:
            return  # there from the beginning, as those of faces that are drawn
        raise AttributeError(
            f"{type(self).__name__}: write `scan`, or set `identities` and `labels` in `__init__`; a reader needs both"
        )

    def open(self) -> Self:
        """Scan the set now, rather than at the first need; see `scan` for what it raises."""
        _ = self.labels
        return self

    def __getattr__(self, name: str) -> Any:
        # called only for what is not there yet; others (dunders while unpickling) are plainly absent
        if name in ("identities", "labels"):
            self.scan()
            return self.__dict__[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @abstractmethod
    def read(self, index: int) -> Pixels:
        """Decode, crop and resize one image.

        Returns:
            uint8 `[1,size,size]` for a grey image, else `[3,size,size]`; of a representation `stored.shape`.

        Raises:
            BadImage: the image cannot be decoded.
        """

    def encoded(self, index: int) -> bytes | None:
        """Return the bytes of the image file an image is decoded from; None where it comes from no such file.

        Raises:
            BadImage: they cannot be read.
        """
        return None

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name of an image as messages show it: its path, or the file and the record in it."""

    def file(self, index: int) -> str:
        """Return the path of the file an image is read from; where it is read from none, some name that no file has."""
        return self.name(index)

    def stable_name(self, index: int) -> str:
        """Return the name of an image within its set, wherever the set lies: what its pseudonym is made of.

        Whether it is held out hangs on this name, and so does whether a checkpoint's data are these: a reader whose
        `name` holds a path of this machine overrides it.
        """
        return self.name(index)

    def stable_names(self) -> Iterator[str]:
        """Yield all stable names in order."""
        return map(self.stable_name, range(len(self)))

    def content(self, index: int) -> bytes:
        """Return an image as it is stored, which tells a set from another with the same names; by default nothing."""
        return b""

    def pixel_facts(self) -> dict[str, object]:
        """Return what decides the pixels beside the files: plain values for a checkpoint, no path and no name."""
        return {"size": self.size, "crop": self.crop}

    def places(self) -> list[Path]:
        """Return the files and folders that the set is read from: by default all paths among its attributes."""
        own = vars(self).items()
        return [
            Path(value)
            for name, value in own
            if isinstance(value, Path) or (name in ("root", "path") and isinstance(value, str))
        ]

    def passed_over(self) -> Iterator[tuple[str, str]]:
        """List what lies in the set and is not among its images: where it lies, and why, naming nothing."""
        return iter(())

    def mixed_labels(self, indices: Sequence[int]) -> Batch:
        """Return `target [B,k]` int64 and `weight [B,k]` of images that are mixes; nothing where none is.

        Args:
            indices: B positions in this reader.
        """
        return {}

    def masks(self, indices: Sequence[int]) -> Batch:
        """Return the masks that came with released images; nothing where none has one of its own.

        Args:
            indices: B positions in this reader.

        Returns:
            `mask_bits [M,ceil(H·W/8)]` uint8, see `lightning_app.masks.bits`, and `mask_index [B]`.
        """
        return {}

    def number(self, index: int) -> int:
        """Return the image's number in the whole reader (a `Subset` keeps it, so draws do not change)."""
        return index

    def who(self, positions: Tensor) -> Tensor | None:
        """Return who is on images of a task.

        Args:
            positions: `[B]` int64 in this reader.

        Returns:
            `[B]` int64, -1 where it is not known; None where the classes are the people.
        """
        if self.classes_are_people:
            return None
        return torch.full_like(positions, -1) if self.person is None else self.person[positions]

    def desensitizer(self) -> Desensitizer | None:
        """Make what its images went through already; None where they are raw."""
        return None

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Read a batch.

        Args:
            indices: B positions in this reader.

        Returns:
            `image` uint8 `[B,3,size,size]` (grey becomes three equal channels), `identity` `[B]` int64 and, of a
            task, `target` `[B]` int64; `index` `[B]` int64 (the number of the image asked for, also where it was
            replaced) and `bad` `[K]` int64 (numbers of those that could not be decoded). Of representations `image` is
            `[B,C,h,w]` as stored; of mixes there are `target` and `weight`, see `mixed_labels`; of images that have a
            mask each `mask_bits` and `mask_index`, see `masks`.

        Raises:
            BadImage: an image cannot be decoded and `on_bad_image` is 'error', or a whole identity cannot.
        """
        image = torch.empty(len(indices), *self.pixel_shape, dtype=self.pixel_dtype)
        if get_worker_info() is not None:
            image.untyped_storage().share_memory_()  # filled where it is sent from
        pixels = image.numpy()
        taken, bad = [], []
        for row, index in enumerate(indices):
            read = self.read(index) if self.on_bad_image == "error" else self._try(index)
            if read is None:
                bad.append(self.number(index))
                index, read = self.replacement(index)
            pixels[row] = read  # one grey channel broadcasts to three
            taken.append(index)
        at = torch.tensor(taken, dtype=torch.int64)
        return {
            "image": image,
            **labelled(self.labels[at], self.who(at)),
            "index": torch.tensor([self.number(index) for index in indices], dtype=torch.int64),
            "bad": torch.tensor(bad, dtype=torch.int64),
            **self.mixed_labels(indices),
            **self.masks(taken),
        }

    @property
    def mixes(self) -> bool:
        """Whether its images are mixes of several people's, see `mixed_labels`."""
        return False

    @property
    def pixel_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images of a batch."""
        return (3, self.size, self.size) if self.stored is None else self.stored.shape

    @property
    def pixel_dtype(self) -> torch.dtype:
        """Return the dtype of the pixels."""
        return torch.float16 if self.stored is not None and self.stored.dtype == "float16" else torch.uint8

    def replacement(self, index: int) -> tuple[int, Pixels]:
        """Find the next good image of the same identity, in index order, wrapping at the end.

        Returns:
            Its position and its pixels.

        Raises:
            BadImage: no image of the identity can be decoded.
        """
        label = int(self.labels[index])
        found = self._next_good(index, torch.nonzero(self.labels == label).flatten())
        if found is None:
            raise BadImage(
                f"no image of identity {self.identities[label]!r} can be decoded, remove it or fetch its "
                f"images again: {self.why_bad(index)}"
            )
        return found

    def _next_good(self, index: int, positions: Tensor) -> tuple[int, Pixels] | None:
        """Decode `positions` (sorted) from the one after `index` on, around, until one is good."""
        start = int(torch.searchsorted(positions, index, right=True))
        for position in torch.roll(positions, -start).tolist():
            if position != index and (pixels := self._try(position)) is not None:
                return position, pixels
        return None

    def why_bad(self, index: int) -> str:
        """Return the name of an image that could not be decoded, with the reason.

        Args:
            index: position in this reader.
        """
        try:
            self.read(index)
        except BadImage as error:
            return str(error)
        return self.name(index)

    def _try(self, index: int) -> Pixels | None:
        try:
            return self.read(index)
        except BadImage:
            return None


def whole(batch: Any) -> Any:
    """Return a reader's batch as it is: the `collate_fn` of its DataLoader.

    From a worker only the image goes through shared memory; each tensor that does costs a file descriptor and
    some 0.3 ms, so the small ones travel inside the message.
    """
    return batch if get_worker_info() is None else _Sent(batch)


class _Sent(dict[str, Tensor]):
    def __reduce__(self) -> tuple[Callable[..., Batch], tuple[object, ...]]:
        small = {key: value.numpy() for key, value in self.items() if key != "image"}
        return _received, (self["image"], small)


def _received(image: Tensor, small: dict[str, NDArray[Any]]) -> Batch:
    found: Any = {"image": image} | {key: torch.from_numpy(value) for key, value in small.items()}
    batch: Batch = found
    return batch
