"""The images of a list of pairs, read once and kept in memory."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from datamodules.readers.base import FaceReader
from datamodules.readers.cached import CachedReader
from datamodules.verification.readers import pairs_of


class PairImages:
    """The images of a verification set, read once.

    Args:
        reader: images and an attribute `pairs`.
        batch_size: images at a time.
        device: where everything is computed; the CPU by default.

    Attributes:
        pixels: uint8 `[N,1 or 3,H,W]`.
        pairs: the list of pairs over them.

    Raises:
        ValueError: the reader has no list of pairs, or `batch_size` is below 1.
    """

    def __init__(self, reader: FaceReader, batch_size: int = 64, device: torch.device | None = None) -> None:
        self.pairs = pairs_of(reader)
        if batch_size < 1:
            raise ValueError(f"batch_size: {batch_size}; give at least 1")
        self.reader = reader
        self.pixels = CachedReader(reader).pixels
        self.batch_size, self.device = batch_size, device or torch.device("cpu")

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.pixels)

    def raw(self, rows: Tensor) -> Tensor:
        """Return raw pixels: uint8 `[n,3,H,W]` on the device."""
        return self.pixels[rows].to(self.device).expand(-1, 3, -1, -1)

    def clean(self, rows: Tensor) -> Tensor:
        """Return clean faces: float `[n,3,H,W]` in [0,1] on the device."""
        return self.raw(rows).float() / 255

    def digest(self, *more: Tensor) -> str:
        """Return the SHA-256 of the pixels, of `more` and of the pairs, in hexadecimal."""
        digest = hashlib.sha256(self.pixels.numpy().data)
        for part in (*more, self.pairs.a, self.pairs.b, self.pairs.same, self.pairs.folds):
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()
