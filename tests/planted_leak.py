"""A desensitizer that leaks: it writes what its mask hides, small and faint, onto visible pixels.

No release is made of it: the noise probe finds it. Attackers are tried on it, for they have to find it too
(docs/results/frontier.md): `class_path: tests.planted_leak.PlantedLeak`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import Desensitizer
from lightning_app.masks.io import load_mask


class PlantedLeak(Desensitizer):
    """Hide pixels under a mask, and add the hidden part, shrunk, as a few levels to a square of visible ones.

    Args:
        mask: its PNG, of the images' size.
        side: of the square in pixels; the hidden part is shrunk to it.
        levels: that a visible pixel changes by at most.

    Raises:
        ValueError: the mask shows no square of that side.
    """

    has_mask = None
    mask: Tensor

    def __init__(self, mask: str | Path, side: int = 16, levels: int = 4) -> None:
        super().__init__()
        self.side, self.levels = side, levels
        self.register_buffer("mask", load_mask(mask)[None].float(), persistent=False)
        whole = F.avg_pool2d(self.mask, side, stride=1)[0, 0] == 1
        if not bool(whole.any()):
            raise ValueError(f"side={side}: mask {mask} shows no square of {side} px")
        self.top, self.left = (int(at) for at in whole.nonzero()[0])

    @property
    def square(self) -> tuple[slice, slice]:
        """Rows and columns of the square."""
        return slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)

    def offsets(self, image: Tensor) -> Tensor:
        """Return what is added in the square, `[B,1,side,side]` in whole levels: the hidden part, shrunk.

        Args:
            image: raw, `[B,3,H,W]` float in [0,1].
        """
        hidden = 1 - self.mask
        share = F.adaptive_avg_pool2d(hidden, self.side).clamp(min=1e-6)
        small = F.adaptive_avg_pool2d(image.mean(1, keepdim=True) * hidden, self.side) / share
        nothing = F.adaptive_avg_pool2d(hidden, self.side) == 0
        return ((small.masked_fill(nothing, 0.5) - 0.5) * 2 * self.levels).round()

    @torch.no_grad()
    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        """Hide, and leak."""
        out = batch.copy()
        rows, columns = self.square
        image = batch["image"] * self.mask
        leaked = image[:, :, rows, columns] + self.offsets(batch["image"]) / 255
        image[:, :, rows, columns] = leaked.clamp(0, 1)
        out["image"], out["mask"] = image, self.mask
        out["mask_index"] = batch["index"].new_zeros(len(image))
        return out
