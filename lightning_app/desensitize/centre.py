"""Hiding a centred rectangle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.plain import Schema, canonical, is_hash, is_number, is_share
from lightning_app.desensitize.base import Desensitizer
from lightning_app.masks.io import mask_hash, mask_ratio

_DECIMALS = 3  # of a share


def check_fraction(fraction: float) -> None:
    """Raise ValueError unless the fraction lies in (0, 1)."""
    if not 0 < fraction < 1:
        raise ValueError(
            f"fraction: {fraction} is not in (0, 1), the share of each side that the centre takes"
        )


def centre_box(size: tuple[int, int], fraction: float) -> tuple[slice, slice]:
    """Return rows and columns of the centred rectangle.

    Each side is `round(fraction · side)`, at least 1 pixel and at least 1 less than the image; where it
    cannot be centred, it lies half a pixel up and to the left.

    Args:
        size: (height, width) in pixels.
        fraction: share of each side, in (0, 1).
    """
    slices = []
    for side in size:
        taken = max(1, min(side - 1, round(fraction * side)))
        first = (side - taken) // 2
        slices.append(slice(first, first + taken))
    return slices[0], slices[1]


def fraction_entry() -> Schema:
    """Return what a manifest may say of a centre: its `fraction`."""
    wanted = f"a share in (0,1) of {_DECIMALS} decimals at most"
    return {"fraction": (lambda v: is_number(v, 0, 1, _DECIMALS), wanted)}


def mask_entries(size: int) -> Schema:
    """Return what a manifest may say of the one mask that lies on all images: size, hash and mask ratio.

    Args:
        size: side of the images in pixels.
    """
    return {
        "size": (
            lambda v: v == [size, size] and canonical(v) == canonical([size, size]),
            f"[{size}, {size}]",
        ),
        "mask_hash": (is_hash, "a SHA-256"),
        "mask_ratio": (is_share, "a share in (0,1)"),
    }


class CentreBlock(Desensitizer):
    """Hide a centred rectangle: its pixels are exactly 0, and the batch gets the mask `[1,1,H,W]`.

    Args:
        fraction: share of each side that the rectangle takes, in (0, 1); 0.5 hides a quarter of the pixels.

    Raises:
        ValueError: on a fraction out of range.
    """

    in_words = "A rectangle in the middle of every face, where eyes, nose and mouth are, is painted black."
    has_mask = True
    hides_only = True
    mask: Tensor | None

    def __init__(self, fraction: float = 0.5) -> None:
        super().__init__()
        check_fraction(fraction)
        self.fraction = fraction
        self.register_buffer("mask", None, persistent=False)

    def prepare(self, size: tuple[int, int]) -> None:
        """Make the mask for images of (height, width)."""
        self._made(size)

    @property
    def shared_mask(self) -> Tensor | None:
        """Return the mask `[1,1,H,W]`, once it is made."""
        return self.mask

    def _made(self, size: tuple[int, int]) -> Tensor:
        """Return the mask `[1,1,H,W]` for images of this size, made anew when it changes."""
        if self.mask is None or tuple(self.mask.shape[-2:]) != size:
            rows, columns = centre_box(size, self.fraction)
            mask = torch.ones(1, 1, *size)
            mask[..., rows, columns] = 0
            self.mask = mask
        return self.mask

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        """Hide the centre of a batch.

        Args:
            batch: `image [B,3,H,W]` float in [0,1]; other entries are passed on.
            draw_key: not used, nothing is drawn.

        Returns:
            A new dict: `image` with hidden pixels 0, `mask [1,1,H,W]`, `mask_index [B]` zeros.
        """
        image = batch["image"]
        # the first batch may be a validation's, but the mask serves training too
        with torch.inference_mode(False):
            if self._made((image.shape[-2], image.shape[-1])).device != image.device:
                self.to(image.device)
        desensitized = super().forward(batch, draw_key)
        desensitized["mask"] = self.mask
        return desensitized

    def desensitize(self, image: Tensor) -> Tensor:
        """Hide the centre of images `[B,3,H,W]` float in [0,1]; the same shape and range."""
        return image * self._made((image.shape[-2], image.shape[-1])).to(image.device)

    def describe(self) -> dict[str, object]:
        """Return method and fraction, and, once images were seen, the mask's size, hash and mask ratio."""
        description = super().describe() | {"fraction": self.fraction}
        if self.mask is not None:
            size = list(self.mask.shape[-2:])
            description |= {
                "size": size,
                "mask_hash": mask_hash(self.mask),
                "mask_ratio": mask_ratio(self.mask[0]),
            }
        return description

    @classmethod
    def from_description(cls, description: Mapping[str, Any], mask: str | Path | None = None) -> Self:
        """Make it of its fraction; the mask follows from it."""
        return cls(description["fraction"])

    @classmethod
    def entries(cls, size: int, version: int) -> list[Schema]:
        """List what a manifest may say of it: its fraction and its mask."""
        return [{**fraction_entry(), **mask_entries(size)}]
