"""Mosaic: every block of pixels takes its mean colour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from lightning_app.core.plain import Schema, is_count
from lightning_app.desensitize.base import SHARPEST, Desensitizer


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

    in_words = "The face is cut into squares, and each square takes its mean colour."
    has_mask = False

    def __init__(self, block: int = 8) -> None:
        super().__init__()
        if block < 2:
            raise ValueError(
                f"block: {block} changes nothing; take 2 or more pixels (the paper takes 8 and 16)"
            )
        self.block = block

    def desensitize(self, image: Tensor) -> Tensor:
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

    @classmethod
    def from_description(cls, description: Mapping[str, Any], mask: str | Path | None = None) -> Self:
        """Make it of its block size."""
        return cls(description["block"])

    @classmethod
    def entries(cls, size: int, version: int) -> list[Schema]:
        """List what a manifest may say of it: its block size."""
        return [{"block": (lambda v: is_count(v, 2, size), f"a number of pixels from 2 to {size}")}]

    @classmethod
    def weaknesses(cls, description: Mapping[str, Any], size: int) -> list[str]:
        """Return what is wrong where it leaves as many blocks as a recogniser takes pixels."""
        if size <= description["block"] * SHARPEST:
            return []
        return [f"block {description['block']} leaves images of {size} pixels as good as clean: "
                f"more than {SHARPEST} blocks a side"]  # fmt: skip

    @classmethod
    def leaves(cls, description: Mapping[str, Any], size: int) -> dict[str, Any] | None:
        """Return the side of the blocks of one colour."""
        return {"block": description["block"]} if "block" in description else None
