"""What another program made of a set's images, found by their names and read as the images themselves are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from datamodules.readers.bad_images import BadImage
from datamodules.readers.base import FaceReader, Pixels
from datamodules.readers.decode import decode, is_turned, read_bytes, upright_size
from lightning_app.core.batch import Batch
from lightning_app.desensitize import Desensitizer, Precomputed

_SHOWN = 3  # names in a message
_THREADS = min(8, os.cpu_count() or 1)  # decoding leaves Python's lock alone


class Elsewhere:
    """The pictures of a reader's images that another program made.

    Args:
        reader: of the raw images.
        made: where the pictures lie.
    """

    def __init__(self, reader: FaceReader, made: Precomputed) -> None:
        self.reader, self.made = reader, made

    def read(self, index: int) -> Pixels:
        """Read the picture of an image: uint8 `[1 or 3,size,size]`.

        Args:
            index: position of the image in the reader.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is of another size than its original, turned otherwise, or cannot be decoded.
        """
        name = self.reader.stable_name(index)
        path = self.made.file(name)
        if path is None:
            raise FileNotFoundError(f"{name}: has no picture in {self.made.root}")
        try:
            data, original = read_bytes(str(path)), self.reader.encoded(index)
        except BadImage as error:
            raise ValueError(str(error)) from error
        size, found = self.reader.size, upright_size(data)
        own = (size, size) if original is None else upright_size(original)
        if found is not None and found not in (own, (size, size)):
            of = "" if own is None or own == (size, size) else f"{own[0]}×{own[1]} as its original, or "
            raise ValueError(f"{path}: is {found[0]}×{found[1]} pixels, and has to be {of}{size}×{size}")
        # a tool may have turned the pixels and dropped the tag; where the sides are equal nothing tells that it did
        other = original is not None and is_turned(data) != is_turned(original)
        if other and found is not None and found[0] == found[1]:
            raise ValueError(
                f"{path}: its EXIF says another orientation than its original's: one of them lies on its side"
            )
        crop = self.reader.pixel_facts().get("crop") if found == own else None
        try:
            return decode(data, crop, size, str(path))  # type: ignore[arg-type]
        except BadImage as error:
            raise ValueError(str(error)) from error

    def images(self, positions: Sequence[int]) -> Tensor:
        """Read the pictures of images: uint8 `[B,3,size,size]`.

        Args:
            positions: B positions in the reader.

        Raises:
            FileNotFoundError, ValueError: see `read`.
        """
        out = torch.empty(len(positions), 3, self.reader.size, self.reader.size, dtype=torch.uint8)
        pixels = out.numpy()
        with ThreadPoolExecutor(_THREADS) as pool:
            for row, read in enumerate(pool.map(self.read, positions)):
                pixels[row] = np.asarray(read)
        return out

    def check(self, positions: Iterable[int] | None = None) -> None:
        """Check that every image has its picture, of the right size, before anything is trained.

        Args:
            positions: in the reader; all by default.

        Raises:
            FileNotFoundError: some are missing; names the first, and says how many.
            ValueError: some cannot be used; likewise.
        """
        missing: list[str] = []
        wrong: list[str] = []

        def look(index: int) -> tuple[str, str]:
            try:
                self.read(index)
            except FileNotFoundError:
                return self.reader.stable_name(index), ""
            except ValueError as error:
                return "", str(error)
            return "", ""

        every = range(len(self.reader)) if positions is None else list(positions)
        with ThreadPoolExecutor(_THREADS) as pool:
            for absent, bad in pool.map(look, every):
                missing += [absent] if absent else []
                wrong += [bad] if bad else []
        if missing:
            raise FileNotFoundError(
                f"Precomputed root={self.made.root}: {len(missing)} of {len(every)} images have no picture in it, the "
                f"first: {', '.join(missing[:_SHOWN])}"
            )
        if wrong:
            more = f" ({len(wrong)} of {len(every)} such)" if len(wrong) > 1 else ""
            raise ValueError(f"Precomputed: {wrong[0]}{more}")


def precomputed_of(desensitizer: Desensitizer) -> Precomputed | None:
    """Return what takes another program's pictures: the desensitizer, or the first step of a chain; else None.

    Args:
        desensitizer: the one in question.
    """
    first = desensitizer.in_order[0]
    return first if isinstance(first, Precomputed) else None


def with_pictures(batch: Batch, desensitizer: Desensitizer, reader: FaceReader | None) -> Batch:
    """Give a batch the pictures that its desensitizer takes, where it takes another program's.

    Args:
        batch: with `index [B]`, positions in the reader.
        desensitizer: what the batch goes through.
        reader: of the batch's images; None where they are of no set.

    Raises:
        FileNotFoundError, ValueError: see `Elsewhere.read`.
    """
    made = precomputed_of(desensitizer)
    if made is None or reader is None:
        return batch
    pictures = Elsewhere(reader, made).images(batch["index"].tolist())
    return {**batch, "elsewhere": pictures.to(batch["image"].device)}


def check_pictures(desensitizer: Desensitizer, *readers: FaceReader | None) -> None:
    """Check that another program's pictures are there for all images of sets, where a desensitizer takes such.

    Args:
        desensitizer: the one in question.
        *readers: of the sets; None is passed over.

    Raises:
        FileNotFoundError, ValueError: see `Elsewhere.check`.
    """
    made = precomputed_of(desensitizer)
    for reader in readers if made is not None else ():
        if reader is not None and reader.desensitizer() is None:
            assert made is not None
            Elsewhere(reader, made).check()
