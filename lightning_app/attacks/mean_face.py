"""The simplest guess: under the mask everybody looks like the average of other people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from typing_extensions import Self

from lightning_app.attacks.base import Attack
from lightning_app.core.batch import Batch

if TYPE_CHECKING:
    from datamodules.readers.base import FaceReader

_BATCH = 64  # images read at a time


class MeanFace(Attack):
    """Put the mean of clean faces of other people under the mask.

    The faces must be of people the attacker may see, aligned and framed like those attacked. The mean is
    computed at the first need.

    Args:
        reader: clean faces, by `class_path`; its size must be that of the images attacked.
        images: how many of them are averaged, spread evenly over the set; fewer where there are fewer.

    Raises:
        ValueError: `images` is below 1.
    """

    needs_mask = True
    mean: Tensor | None  # [1,3,H,W] float32

    def __init__(self, reader: FaceReader | None = None, images: int = 2000) -> None:
        super().__init__()
        if images < 1:
            raise ValueError(f"images: {images}; average at least 1 face")
        self.reader, self.images = reader, images
        self.register_buffer("mean", None, persistent=False)

    @classmethod
    def of(cls, faces: Tensor) -> Self:
        """Make the attack from clean faces themselves.

        Args:
            faces: `[N,3,H,W]`, uint8 or float in [0,1], of which the mean is taken; N = 1 for a mean face.

        Raises:
            ValueError: another shape.
        """
        if faces.ndim != 4 or faces.shape[1] != 3 or len(faces) == 0:
            raise ValueError(f"faces: {list(faces.shape)}; give [N, 3, H, W] with N ≥ 1")
        made = cls(images=len(faces))
        scale = 1.0 if faces.is_floating_point() else 255.0
        made.mean = (faces.double().mean(0, keepdim=True) / scale).float()
        return made

    def guess(self, released: Batch) -> Tensor:
        """Return the mean face for every image."""
        desensitized = released["image"]
        if self.mean is None:
            self.mean = self._averaged()
        if self.mean.shape[2:] != desensitized.shape[2:]:
            have, need = (f"{h}×{w}" for h, w in (self.mean.shape[2:], desensitized.shape[2:]))
            raise ValueError(
                f"reader: its faces are {have}, the images attacked {need}; give both the same size"
            )
        self.mean = self.mean.to(desensitized.device)
        return self.mean.expand(len(desensitized), -1, -1, -1)

    def _averaged(self) -> Tensor:
        if self.reader is None:
            raise ValueError(
                "reader: MeanFace has no faces to average; give clean faces of people who are not attacked"
            )
        count = len(self.reader)
        chosen = torch.linspace(0, count - 1, min(self.images, count), dtype=torch.float64).round().long()
        total = torch.zeros(3, self.reader.size, self.reader.size, dtype=torch.float64)
        for part in chosen.split(_BATCH):
            total += self.reader.__getitems__(part.tolist())["image"].sum(0, dtype=torch.float64)
        return (total / (255 * len(chosen))).float()[None]

    def readers(self) -> list[FaceReader]:
        """Return the set it learns from."""
        return [] if self.reader is None else [self.reader]

    def describe(self) -> dict[str, object]:
        """Return the attack and how many faces it averages."""
        return super().describe() | {"images": self.images}
