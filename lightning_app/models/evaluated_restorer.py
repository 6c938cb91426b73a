"""What networks that restore faces have in common: how well they do on held-out images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import lightning as L
from torch import Tensor

from lightning_app.core.batch import Batch
from lightning_app.metrics import psnr
from lightning_app.models.held_out import HeldOutMeans
from lightning_app.networks.partial_conv import of_images


class EvaluatedRestorer(L.LightningModule, ABC):
    """A network that restores faces: logs the PSNR of held-out images in dB, restored and before, and does not embed.

    Under a mask the hidden pixels alone count.

    Attributes:
        log_prefix: first part of the keys, `PREFIX/psnr` and `PREFIX/psnr_before`.
    """

    log_prefix: ClassVar[str] = "restore"

    def __init__(self) -> None:
        super().__init__()
        self._held_out = HeldOutMeans("psnr", "psnr_before")

    @abstractmethod
    def restored(self, batch: Batch) -> Tensor:
        """Restore a batch as an attack does: `[B,3,H,W]` in [0,1], visible pixels as they were.

        Args:
            batch: as a `FaceDataModule` gives it, normalised.
        """

    @abstractmethod
    def before(self, batch: Batch) -> Tensor:
        """Return what was released as it is looked at: `[B,3,H,W]` in [0,1].

        Args:
            batch: as a `FaceDataModule` gives it, normalised.
        """

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the PSNR of held-out images, restored and before; the batch may be empty."""
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count what `validation_step` counts."""
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Log it, over the images of all ranks; nothing where there are none."""
        self._held_out.log(self, self.log_prefix)

    def on_test_epoch_end(self) -> None:
        """Log it, as after a validation."""
        self._held_out.log(self, self.log_prefix)

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Refuse: embeddings are a recogniser's.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"predict writes embeddings, {type(self).__name__} has none; attack with TrainedRestorer instead"
        )

    def _evaluate(self, batch: Batch) -> None:
        if len(batch["image"]) == 0:  # a rank without held-out images, or a set without
            return
        mask = batch["mask"]
        hidden = None if mask is None else 1 - of_images(mask, batch["mask_index"])
        clean = batch["clean"].float()
        pictures = {"psnr": self.restored(batch), "psnr_before": self.before(batch)}
        metrics = {name: psnr(image, clean, hidden).mean() for name, image in pictures.items()}
        self._held_out.add(metrics, len(clean))
