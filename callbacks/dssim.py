"""How far desensitized faces are from the raw ones, as a picture metric sees it."""

from __future__ import annotations

import torch

from callbacks.raw_faces import MeasuresRawFaces, SeenFaces, mean_mask_ratio
from lightning_app.core.log_keys import measurement
from lightning_app.core.measurement import Measurement
from lightning_app.metrics import DSSIM, PSNR


class DSSIMReport(MeasuresRawFaces):
    """Measure dSSIM and PSNR between raw and desensitized faces and log them.

    dSSIM = 1 − SSIM, in 0 … 2, higher hides more (paper, 4.1); PSNR in dB, lower hides more. Both on [0,1]
    pixels and averaged over the same few validation images every time. Keys: `privacy/dssim`, `privacy/psnr`,
    and `privacy/mask_ratio` (hidden pixels / all pixels, 0 … 1) where there is a mask. Where the desensitized
    pixels are those of the last time, so are the metrics: with a fixed mask they are computed once per run. What is
    no picture is measured as its `look` shows it (docs/representations.md).

    Under DDP every rank measures the same images: nobody waits for rank zero.

    Args:
        images: how many validation images to measure on; fewer where there are fewer.

    Raises:
        ValueError: `images` is below 1.
    """

    def __init__(self, images: int = 64) -> None:
        super().__init__(images)

    def logged(self) -> tuple[str, ...]:
        """Return its log keys."""
        return "privacy/dssim", "privacy/psnr", "privacy/mask_ratio"

    def measure(self, found: SeenFaces, device: torch.device) -> list[Measurement]:
        """Measure; see `MeasuresRawFaces.measure`."""
        # every rank measures the same images: nothing to bring together
        metrics = {
            "privacy/dssim": DSSIM(sync_on_compute=False).to(device),
            "privacy/psnr": PSNR(sync_on_compute=False).to(device),
        }
        for metric in metrics.values():
            metric.update(found.clean, found.pictures)
        measured = [measurement(key, metric.compute().item()) for key, metric in metrics.items()]
        if (ratio := mean_mask_ratio(found.desensitized)) is not None:
            measured.append(measurement("privacy/mask_ratio", ratio.item()))
        return measured
