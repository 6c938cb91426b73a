"""The one loop that embeds images: verification, privacy measures, judges and sweeps all go through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

# image [B,C,H,W], mask [M,1,H,W] or None, mask_index [B] or None -> [B,D]
Embedder = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
Tick = Callable[[int], None]


def no_tick(images: int) -> None:
    """Tell nobody how many images are done."""


@dataclass(frozen=True)
class Shown:
    """Images on their device, and who embeds them.

    Attributes:
        image: `[B,C,H,W]`, as the embedders take them.
        by: name -> embedder.
        mask: `[M,1,H,W]` of 0 (hidden) and 1 (visible); None where nothing is hidden.
        mask_index: `[B]` int64, which of the M masks lies on each image; None where there is no mask.
        of_mirrored: what is made of the mirrored raw images, where it is not this, mirrored.
    """

    image: Tensor
    by: Mapping[str, Embedder]
    mask: Tensor | None = None
    mask_index: Tensor | None = None
    of_mirrored: Shown | None = None

    def mirrored(self) -> Shown:
        """Return the images and their masks mirrored left to right."""
        if self.of_mirrored is not None:
            return self.of_mirrored
        mask = None if self.mask is None else self.mask.flip(-1)
        return Shown(self.image.flip(-1), self.by, mask, self.mask_index)


@torch.no_grad()
def embed_images(
    batches: Iterable[Iterable[Shown]],
    *,
    flip: bool = False,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    tick: Tick = no_tick,
) -> dict[str, Tensor]:
    """Embed images batch by batch, each batch in every state it is shown in (clean, desensitized, restored).

    No collective runs here: under DDP every rank embeds its own share, see `rank_share`, and gathers afterwards. The
    device is never waited for: what is found stays there.

    Args:
        batches: for each batch of images, its states; all of one size. They are made when they are needed.
        flip: add the embedding of the mirrored image.
        precision: makes the context in which embedders run, such as autocast.
        tick: called with the number of images done.

    Returns:
        Name of the embedder -> `[N,D]` float32 in the batches' order, of any length, on the embedders' device;
        without the names of those that were shown nothing.
    """
    found: dict[str, list[Tensor]] = {}
    for states in batches:
        count = 0
        for shown in states:
            count = len(shown.image)
            with precision():
                for name, embedder in shown.by.items():
                    found.setdefault(name, []).append(_embedded(embedder, shown, flip).float())
        tick(count)
    return {name: torch.cat(parts) for name, parts in found.items()}


def rank_share(count: int, batch_size: int, rank: int = 0, world: int = 1) -> list[Tensor]:
    """Deal images to ranks without padding, and cut a rank's share into batches.

    Args:
        count: how many images there are.
        batch_size: images of a batch.
        rank: of this process.
        world: number of processes.

    Returns:
        Positions `[n]` int64 of each batch; no batch where there are fewer images than ranks.
    """
    mine = torch.arange(count)[rank::world]
    return [rows for rows in mine.split(batch_size) if len(rows)]


def _embedded(embedder: Embedder, shown: Shown, flip: bool) -> Tensor:
    embedding = embedder(shown.image, shown.mask, shown.mask_index)
    return embedding + _embedded(embedder, shown.mirrored(), False) if flip else embedding
