"""Mosaic: every block of pixels takes its mean colour."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_app.desensitize.base import Desensitizer


class Mosaic(Desensitizer):
    """Replace each block × block square by its mean colour (the paper's block sizes: 8 and 16).

    The grid starts at the top left; where the image is not a multiple of the block, the last blocks are
    smaller and take the mean of the pixels they have.

    Args:
        block: side of a block in pixels, at least 2.

    Raises:
        ValueError: on a block below 2.

    Source: On Mask-based Image Set Desensitization with Recognition Support, figure 7.
    """

    def __init__(self, block: int = 8) -> None:
        super().__init__()
        if block < 2:
            raise ValueError(
                f"block: {block} changes nothing; take 2 or more pixels (the paper takes 8 and 16)"
            )
        self.block = block

    def veil(self, image: Tensor) -> Tensor:
        """Pixelate images `[B,3,H,W]` float in [0,1]; the same shape and range, float32."""
        height, width = image.shape[-2:]
        block = min(self.block, max(height, width))  # a larger one would take its square in memory
        # ceil_mode without padding divides a ragged block by the pixels it really has
        means = F.avg_pool2d(image.to(torch.float32), block, ceil_mode=True)
        tall = means.repeat_interleave(block, dim=-2)[..., :height, :]
        return tall.repeat_interleave(block, dim=-1)[..., :width]

    def describe(self) -> dict[str, object]:
        """Return method and block size in pixels."""
        return super().describe() | {"block": self.block}
