"""What a network made of images that were seen before: an epoch later they are the same ones."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_MOST = 256 * 2**20  # bytes that are kept


class ImageMemory:
    """Keep a row of numbers for each image, found again by the image's own pixels, whatever set it is of.

    What is kept lies on the CPU; when it is full, further images are made each time.

    Args:
        most: bytes that are kept at most.
        whole_batches: where a batch has an image that was not seen before, make all of it anew: the batches that a
            network sees are of one size then, and rounding does not hang on who else is in them. Else the unseen alone.
    """

    def __init__(self, most: int = _MOST, whole_batches: bool = True) -> None:
        self.most, self.bytes, self.whole_batches = most, 0, whole_batches
        self._rows: dict[tuple[int, int], Tensor] = {}
        self._weights: Tensor | None = None  # [2,N] int64

    def __len__(self) -> int:
        """Return how many images are kept."""
        return len(self._rows)

    def rows(self, image: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what `make` makes of a batch, or made of these images before.

        Args:
            image: `[B,3,H,W]` float.
            make: makes of `[B,3,H,W]` a tensor `[B,…]`, each row of its image alone.
        """
        names = self._names(image)
        unseen = [place for place, name in enumerate(names) if name not in self._rows]
        if names and not unseen:
            return torch.stack([self._rows[name] for name in names]).to(image.device)
        if self.whole_batches or len(unseen) == len(names):
            made = make(image)
            self._keep(names, made)
            return made
        new = make(image[unseen])
        fresh = dict(zip([names[place] for place in unseen], new, strict=True))
        self._keep([names[place] for place in unseen], new)
        return torch.stack([fresh[n] if n in fresh else self._rows[n].to(new.device) for n in names])

    def _keep(self, names: Sequence[tuple[int, int]], made: Tensor) -> None:
        for name, row in zip(names, made.cpu(), strict=True):
            size = row.numel() * row.element_size()
            if name not in self._rows and self.bytes + size <= self.most:
                self._rows[name] = row.clone()
                self.bytes += size

    def _names(self, image: Tensor) -> list[tuple[int, int]]:
        """Return 128 bits for each image: two sums of its pixels' bits, weighted by random numbers, modulo 2⁶⁴."""
        bits = image.detach().float().contiguous().view(torch.int32).flatten(1).long()
        if self._weights is None or self._weights.shape[1] != bits.shape[1]:
            drawn = torch.Generator().manual_seed(
                secrets.randbits(63)
            )  # nobody can make two images of one name
            self._weights = torch.randint(-(2**62), 2**62, (2, bits.shape[1]), generator=drawn) * 2 + 1
        self._weights = self._weights.to(bits.device)
        sums = torch.stack([(bits * weights).sum(1) for weights in self._weights], 1)
        return [(int(one), int(other)) for one, other in sums.tolist()]
