"""How far desensitized faces are from the raw ones, as a picture metric sees it."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from callbacks.measured import log_measurements
from callbacks.raw_faces import OnRawFaces, mean_mask_ratio
from lightning_app.core.log_keys import measurement
from lightning_app.core.measurement import Measurement
from lightning_app.metrics import DSSIM, PSNR


class DSSIMReport(OnRawFaces):
    """Measure dSSIM and PSNR between raw and desensitized faces and log them.

    dSSIM = 1 − SSIM, in 0 … 2, higher hides more (paper, 4.1); PSNR in dB, lower hides more. Both on [0,1]
    pixels and averaged over the same few validation images every time. Keys: `privacy/dssim`, `privacy/psnr`,
    and `privacy/mask_ratio` (hidden pixels / all pixels, 0 … 1) where there is a mask. Where the desensitized
    pixels are those of the last time, so are the figures: with a fixed mask they are computed once per run. What is
    no picture is measured as its `look` shows it (docs/representations.md).

    Under DDP every rank measures the same images: nobody waits for rank zero.

    Args:
        images: how many validation images to measure on; fewer where there are fewer.

    Raises:
        ValueError: `images` is below 1.
    """

    def __init__(self, images: int = 64) -> None:
        super().__init__(images)
        self.measurements: list[Measurement] = []

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure and log."""
        if not trainer.sanity_checking:
            self._report(trainer, pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure and log."""
        self._report(trainer, pl_module)

    def _report(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        if data is None:
            raise ValueError(
                "DSSIMReport needs a FaceDataModule: it owns the raw images and the desensitizer"
            )
        self._measure(data, pl_module.device)
        log_measurements(trainer, pl_module, self.measurements)

    @torch.no_grad()
    def _measure(self, data: Any, device: torch.device) -> None:
        if (found := self.newly_seen(data, device)) is None:
            return
        # every rank measures the same images: nothing to bring together
        metrics = {
            "privacy/dssim": DSSIM(sync_on_compute=False).to(device),
            "privacy/psnr": PSNR(sync_on_compute=False).to(device),
        }
        for metric in metrics.values():
            metric.update(found.clean, found.pictures)
        self.measurements = [measurement(key, metric.compute().item()) for key, metric in metrics.items()]
        if (ratio := mean_mask_ratio(found.desensitized)) is not None:
            self.measurements.append(measurement("privacy/mask_ratio", ratio.item()))
