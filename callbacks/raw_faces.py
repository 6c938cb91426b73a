"""What callbacks share that look at the raw pixels of a few validation images."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from callbacks.measured import log_measurements
from lightning_app.core.batch import Batch
from lightning_app.core.measurement import Measurement

log = logging.getLogger("faceveil")


class SeenFaces(NamedTuple):
    """Raw faces, and what is seen of them.

    Attributes:
        clean: `[n,3,H,W]` float in [0,1].
        desensitized: the batch, as training images are.
        pictures: `[n,3,H,W]` float in [0,1], as it is looked at.
    """

    clean: Tensor
    desensitized: Batch
    pictures: Tensor


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
        self._seen: Tensor | None = None  # uint8 [n,3,H,W], what was measured last
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

    def newly_seen(self, data: Any, device: torch.device) -> SeenFaces | None:
        """Return the raw faces and what is seen of them; None where there is nothing to measure.

        That is so where the desensitized pixels are those of the last time, so that with a fixed mask a run measures
        once; and where there are no raw faces, or fewer than are in a mix, which is told.

        Args:
            data: the run's DataModule.
            device: where they shall be.
        """
        raw, name = self.raw_faces(data, device), type(self).__name__
        if not len(raw):
            self.tell(f"{name}: a released set has no raw images to compare with: skipped.", logging.INFO)
            return None
        if data.desensitizer.mixes > len(raw):
            self.tell(f"{name}: {len(raw)} images are fewer than are in a mix: skipped.")
            return None
        desensitized = self.desensitized(data, raw)
        pictures = data.desensitizer.pictures(desensitized["image"], (raw.shape[2], raw.shape[3]))
        seen = (pictures * 255).round().byte().cpu()
        if self._seen is not None and torch.equal(seen, self._seen):
            return None
        self._seen = seen
        return SeenFaces(raw.float() / 255, desensitized, pictures)

    def tell(self, line: str, level: int = logging.WARNING) -> None:
        """Log a line; the first one alone.

        Args:
            line: what is said.
            level: of the log.
        """
        if not self._told:
            self._told = True
            log.log(level, line)


class MeasuresRawFaces(OnRawFaces):
    """One that compares what is seen of the raw faces with them after every validation and test, and logs it.

    A subclass overrides `measure`. Where there is nothing new to measure, the metrics are those of the last time.

    Args:
        images: how many; fewer where there are fewer.

    Raises:
        ValueError: `images` is below 1.
    """

    def __init__(self, images: int) -> None:
        super().__init__(images)
        self.measurements: list[Measurement] = []

    def measure(self, found: SeenFaces, device: torch.device) -> list[Measurement]:
        """Measure.

        Args:
            found: the raw faces and what is seen of them, on the device.
            device: where to compute.
        """
        raise NotImplementedError(f"{type(self).__name__} does not override measure")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure and log."""
        if not trainer.sanity_checking:
            self._report(trainer, pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure and log."""
        self._report(trainer, pl_module)

    @torch.no_grad()
    def _report(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        if data is None:
            raise ValueError(
                f"{type(self).__name__} needs a FaceDataModule: it owns the raw images and the desensitizer"
            )
        if (found := self.newly_seen(data, pl_module.device)) is not None:
            self.measurements = self.measure(found, pl_module.device)
        log_measurements(trainer, pl_module, self.measurements)


def mean_mask_ratio(batch: Batch) -> Tensor | None:
    """Return the mean mask ratio of a batch's images, a scalar; None where they have no masks.

    Args:
        batch: with `mask` `[M,1,H,W]`, 1 = visible, and `mask_index` `[B]`.
    """
    if batch["mask"] is None:
        return None
    ratio: Tensor = (1 - batch["mask"].flatten(1).mean(1))[batch["mask_index"]].mean()
    return ratio
