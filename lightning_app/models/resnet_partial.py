"""The recogniser whose convolutions are renormalised by what the mask lets them see."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_app.models.masks import LooksAtMasks
from lightning_app.networks import Backbone
from lightning_app.networks.backbones import BackboneMaker
from lightning_app.networks.backbones.partial import PartialResNet, PartialUntil
from lightning_app.networks.backbones.resnet import ResNetBackbone


class ResNetPartial(LooksAtMasks):
    """A ResNet of partial convolutions: the known remedy for holes, beside the paper's gates.

    It has the weights of a `ResNet`, by the same names, and is one where nothing is hidden.

    Args:
        partial_until: the last part whose convolutions are partial (stem, layer1 … layer4); what follows is ordinary.
        **kwargs: as for `ResNet`; `backbone` is one of resnet18, resnet34, resnet50 by name.

    Raises:
        ValueError: an unknown part, or a backbone that is no ResNet.

    Source: Liu et al., "Image inpainting for irregular holes using partial convolutions", ECCV 2018.
    """

    def __init__(self, partial_until: PartialUntil = "layer4", **kwargs: Any) -> None:
        self._until = partial_until
        super().__init__(**kwargs)

    def configure_backbone(
        self, backbone: BackboneMaker | str, input_size: int, in_channels: int
    ) -> Backbone:
        """Build the network of partial convolutions.

        Raises:
            ValueError: the backbone is none of torchvision's ResNets by name.
        """
        plain = super().configure_backbone(backbone, input_size, in_channels)  # refuses what no model takes
        if not isinstance(backbone, str) or not isinstance(plain, ResNetBackbone):
            raise ValueError(
                f"backbone: {type(plain).__name__} has no partial convolutions; give resnet18, resnet34 or resnet50 "
                "by name"
            )
        return PartialResNet(backbone, input_size, in_channels, self.width, self._until)  # type: ignore[arg-type]

    def freeze_gate(self, mask: Tensor) -> None:
        """Cache what the windows see of a mask `[M,1,H,W]`; another mask then raises, `train()` clears it."""
        self.backbone.freeze_gate(mask)
