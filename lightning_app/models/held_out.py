"""Means over held-out images, the same on any number of ranks."""

from __future__ import annotations

from collections.abc import Mapping

import lightning as L
import torch
from torch import Tensor


class HeldOutMeans:
    """Means over all held-out images, whatever their batches and ranks: each image counts once.

    Lightning's own (`log(..., sync_dist=True)`) divides by the ranks' mean number of images rounded down, which
    is wrong where their shares differ, and hangs where a rank has none and logs nothing. torchmetrics' `MeanMetric`
    (1.9) either looks for NaN, which waits for the device at every batch and leaves a diverged loss out of the mean, or
    (`nan_strategy="disable"`) forgets the weights it is given.

    Args:
        *names: of the metrics.
    """

    def __init__(self, *names: str) -> None:
        self.names = names
        self._totals: Tensor | None = None  # [metrics + 1]: sums over images, and their number

    def add(self, metrics: Mapping[str, Tensor], images: int) -> None:
        """Add a batch.

        Args:
            metrics: name → mean over the batch's images, a scalar.
            images: how many they are.
        """
        means = torch.stack([metrics[name].detach().float() for name in self.names])
        totals = torch.cat([means, means.new_ones(1)]).to(_exact(means.device)) * images
        self._totals = totals if self._totals is None else self._totals + totals

    def log(self, module: L.LightningModule, stage: str) -> None:
        """Log the means as `STAGE/NAME` and begin anew; every rank calls this, one collective.

        Where no rank had an image, nothing is logged.

        Args:
            module: that evaluated.
            stage: first part of the keys.
        """
        totals, self._totals = self._totals, None
        if totals is None:  # a rank without images
            totals = torch.zeros(len(self.names) + 1, device=module.device, dtype=_exact(module.device))
        summed = module.trainer.strategy.reduce(totals, reduce_op="sum")
        assert isinstance(summed, Tensor)
        if summed[-1] > 0:
            for name, total in zip(self.names, summed[:-1], strict=True):
                module.log(f"{stage}/{name}", (total / summed[-1]).float(), batch_size=1)


def _exact(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
