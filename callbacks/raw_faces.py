"""What callbacks share that look at the raw pixels of a few validation images."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_app.core.batch import Batch

log = logging.getLogger("faceveil")


class OnRawFaces(L.Callback):
    """A callback that looks at the same few validation images every time, and says what must be said once.

    Args:
        images: how many; fewer where there are fewer.

    Raises:
        ValueError: `images` is below 1.
    """

    def __init__(self, images: int) -> None:
        if images < 1:
            raise ValueError(f"{type(self).__name__}: images={images}: give at least 1")
        self.images = images
        self._raw: Tensor | None = None  # uint8 [n,3,H,W], on the CPU
        self._told = False

    def raw_faces(self, data: Any, device: torch.device) -> Tensor:
        """Return the raw images, read when first asked for.

        Args:
            data: the run's DataModule.
            device: where they shall be.

        Returns:
            uint8 `[n,3,H,W]`; none of a released set, which has no raw images.
        """
        if self._raw is None:
            self._raw = data.raw_samples(self.images).cpu()
        return self._raw.to(device)

    def desensitized(self, data: Any, raw: Tensor) -> Batch:
        """Desensitize the raw images as training images are.

        Args:
            data: the run's DataModule.
            raw: of `raw_faces`.
        """
        found = {"reader": data.sampled(self.images)} if data.desensitizer.elsewhere else {}
        out: Batch = data.desensitized(raw, draw_key=data.as_trained(len(raw)), **found)
        return out

    def tell(self, line: str, level: int = logging.WARNING) -> None:
        """Log a line; the first one alone.

        Args:
            line: what is said.
            level: of the log.
        """
        if not self._told:
            self._told = True
            log.log(level, line)


def mean_mask_ratio(batch: Batch) -> Tensor | None:
    """Return the mean mask ratio of a batch's images, a scalar; None where they have no masks.

    Args:
        batch: with `mask` `[M,1,H,W]`, 1 = visible, and `mask_index` `[B]`.
    """
    if batch["mask"] is None:
        return None
    ratio: Tensor = (1 - batch["mask"].flatten(1).mean(1))[batch["mask_index"]].mean()
    return ratio
