"""What the gates of a recogniser contribute: verification with each of them on and off."""

from __future__ import annotations

import logging
import math

import lightning as L
import torch
from torch import Tensor

from callbacks.measured import log_measurements
from callbacks.sharded import ImageState, cosine_scores, datamodule_of, embed_sharded, is_due
from callbacks.verification import LFWVerification
from datamodules.verification.readers import pairs_of
from lightning_app.core.batch import Batch
from lightning_app.core.log_keys import measurement
from lightning_app.core.measurement import Measurement
from lightning_app.evaluation.privacy import gives_masks
from lightning_app.metrics.paired import AccuracyGain, accuracy_gain
from lightning_app.networks import Backbone
from lightning_app.networks.fsm import resized_mask

log = logging.getLogger("faceveil")
_ON: tuple[str, ...] = ()


class FSMAblation(L.Callback):
    """Verify with each gate of the model off, and say what it contributes (paper, 4.4).

    A gate that is off is exactly 1 everywhere, as with no mask; the weights stay. So it measures what this
    trained network loses without its gate. A network trained without one is another question: that of the
    runs of `ablate --config fsm_ablation.yaml` (Table 7).

    Images, pairs, folds, `flip` and `batch_size` are those of the run's `LFWVerification`, in situation 1
    (both desensitized). Every image is read and desensitized once, and embedded once with all gates on and once
    for each gate, and with several gates once more, for all of them.

    Keys, POINT being `layer1` … `layer4` or `all` (with one gate the same as that gate's):
    `fsm/accuracy`, all gates on; `fsm/accuracy_without_POINT`; `fsm/contribution_POINT`, their difference,
    positive where the gate helps, with `_low` and `_high`, its 95 % bootstrap interval over pairs, paired;
    `fsm/gate_mean_POINT` (not of `all`), the mean gate over channels and hidden cells of all images, 0 … 1.

    A model without gates, or a desensitizer without a mask, is told in one line, and nothing is logged.

    Args:
        every_n_epochs: how often within `fit`; the last epoch is always measured.
        verification: `name` of the LFWVerification whose images and pairs to take; by default the first.
        bootstrap: resamples behind the 95 % intervals; 0 for none.
        name: first part of the log keys.

    Raises:
        ValueError: `every_n_epochs` is below 1 or `bootstrap` below 0.
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        verification: str | None = None,
        bootstrap: int = 1000,
        name: str = "fsm",
    ) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"FSMAblation: every_n_epochs={every_n_epochs}: give at least 1")
        if bootstrap < 0:
            raise ValueError(f"FSMAblation: bootstrap={bootstrap}: give 0 (no intervals) or more")
        self.every_n_epochs, self.verification = every_n_epochs, verification
        self.bootstrap, self.name = bootstrap, name
        self.results: dict[str, AccuracyGain] = {}
        self.measurements: list[Measurement] = []
        self._verifier: LFWVerification | None = None
        self._told = False

    def logged(self) -> tuple[str, ...]:
        """Return its log keys, as patterns."""
        return tuple(
            f"{self.name}/{what}"
            for what in ("accuracy", "accuracy_without_*", "contribution_*", "gate_mean_*")
        )

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the gates and the verification set.

        Raises:
            ValueError: the run has no LFWVerification, or none of that name.
        """
        self._verifier = None
        if not _gated(pl_module):
            self._log(
                trainer, f"FSMAblation: {type(pl_module).__name__} has no gates: nothing to switch off."
            )
            return
        every = [c for c in trainer.callbacks if isinstance(c, LFWVerification)]  # type: ignore[attr-defined]
        wanted = [c for c in every if self.verification in (None, c.name)]
        if not wanted:
            found = ", ".join(c.name for c in every) or "none"
            raise ValueError(
                f"FSMAblation: verification={self.verification}: it takes the images and pairs of a "
                f"callbacks.LFWVerification, and the run has {found}; add one, or name one of these"
            )
        self._verifier = wanted[0]
        self._verifier.open(datamodule_of(trainer, "FSMAblation"))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure, when it is due."""
        if is_due(trainer, self.every_n_epochs):
            self.measure(trainer, pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure."""
        self.measure(trainer, pl_module)

    def measure(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Embed with every gate on and off, compare and log."""
        if self._verifier is None:
            return
        data = datamodule_of(trainer, "FSMAblation")
        if not gives_masks(data, trainer.strategy.root_device):
            self._log(
                trainer, "FSMAblation: the desensitizer has no mask, so every gate is 1: nothing measured."
            )
            return
        backbone = pl_module.backbone
        assert isinstance(backbone, Backbone)
        points = tuple(backbone.gates)
        sets = {point: (point,) for point in points} | {"all": points}
        gates = _GateMean(backbone)
        reader = self._verifier.open(data)
        embeddings = embed_sharded(
            trainer, pl_module, data, reader,
            {"+".join(off): ImageState(desensitized=True, off=off) for off in (_ON, *sets.values())},
            batch_size=self._verifier.batch_size, flip=self._verifier.flip,
            title="Verifying with gates off", watch=gates.add,
        )  # fmt: skip
        pairs = pairs_of(reader)
        scores = {off: cosine_scores(embedded, embedded, pairs) for off, embedded in embeddings.items()}
        found: list[Measurement] = []
        for point, off in sets.items():
            on, without = scores["+".join(_ON)], scores["+".join(off)]
            gain = accuracy_gain(on, without, pairs.same, pairs.folds, bootstrap=self.bootstrap)
            self.results[point] = gain
            found += [] if found else [measurement(f"{self.name}/accuracy", gain.accuracy)]
            found.append(measurement(f"{self.name}/accuracy_without_{point}", gain.baseline))
            ends = gain.gain_ci if self.bootstrap else (None, None)
            found.append(measurement(f"{self.name}/contribution_{point}", gain.gain, *ends))
        for point, mean in gates.means(trainer).items():
            found.append(measurement(f"{self.name}/gate_mean_{point}", mean))
        self.measurements = found
        log_measurements(trainer, pl_module, found)

    def _log(self, trainer: L.Trainer, line: str) -> None:
        if not self._told and trainer.is_global_zero:
            log.warning(line)
        self._told = True


class _GateMean:
    """Mean gate over channels and hidden cells, summed up on every rank; the device is waited for at the end only."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        # of every batch [gates,2]: the sum of a gate's values, and how many they are
        self.sums: list[Tensor] = []

    def add(self, batch: Batch) -> None:
        """Count a batch of desensitized images with its masks `[M,1,H,W]` and mask_index `[B]`."""
        mask, index = batch["mask"], batch["mask_index"]
        if mask is None:
            return
        images = torch.bincount(index, minlength=len(mask)).float()  # of each mask
        rows = []
        for gate in self.backbone.gate(mask).values():  # [M,C,h,w]
            hidden = (1 - resized_mask(mask, gate.shape[-1])).expand_as(gate)
            each = torch.stack([values.float().flatten(1).sum(1) for values in (gate * hidden, hidden)])
            rows.append((each * images).sum(1))  # no matrix product: autocast would round it to 16 bits
        self.sums.append(torch.stack(rows))

    def means(self, trainer: L.Trainer) -> dict[str, float]:
        """Bring the ranks together: insertion point → mean; without those whose cells all show."""
        none = torch.zeros(len(self.backbone.gates), 2)
        own = torch.stack(self.sums or [none]).cpu().double().sum(0).float().to(trainer.strategy.root_device)
        every = trainer.strategy.all_gather(own).reshape(-1, *own.shape).double().cpu().sum(0)
        means = dict(zip(self.backbone.gates, (every[:, 0] / every[:, 1]).tolist(), strict=True))
        return {point: mean for point, mean in means.items() if not math.isnan(mean)}


def _gated(pl_module: L.LightningModule) -> bool:
    backbone = getattr(pl_module, "backbone", None)
    return isinstance(backbone, Backbone) and len(backbone.gates) > 0
