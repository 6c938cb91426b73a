"""The recogniser that gates its features by the mask: `resnet-fsm` (paper, 3.3 and 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_app.models.masks import LooksAtMasks
from lightning_app.networks import Backbone
from lightning_app.networks.backbones import BackboneMaker
from lightning_app.networks.fsm import Normaliser


class ResNetFSM(LooksAtMasks):
    """A ResNet with Feature Selection Masknets (paper, 3.3: `resnet-fsm`).

    Args:
        insertion_points: stages after which an FSM gates the feature map; a ResNet has layer1 … layer4 (paper,
            Table 7: layer3 is best).
        normalise: how the FSM's output comes to (0,1).
        **kwargs: as for `ResNet`.

    Raises:
        ValueError: no insertion point, an unknown one, or a feature map of 1×1 there.
    """

    def __init__(
        self,
        insertion_points: Sequence[str] = ("layer3",),
        normalise: Normaliser = "sigmoid",
        **kwargs: Any,
    ) -> None:
        if not insertion_points:
            raise ValueError("insertion_points is empty: name at least one of layer1 … layer4, or use ResNet")
        self._points, self._normalise = list(insertion_points), normalise
        super().__init__(**kwargs)

    def configure_backbone(
        self, backbone: BackboneMaker | str, input_size: int, in_channels: int
    ) -> Backbone:
        """Build the network with its gates."""
        plain = super().configure_backbone(backbone, input_size, in_channels)
        return plain.place_gates(self._points, input_size, self._normalise)

    def gate(self, mask: Tensor) -> dict[str, Tensor]:
        """Return the gate of each mask `[M,1,H,W]`: insertion point → `[M,C,h,w]` in [0,1]."""
        return self.backbone.gate(mask)

    def freeze_gate(self, mask: Tensor) -> None:
        """Cache the gate of a mask `[M,1,H,W]` for inference; another mask then raises, `train()` clears it."""
        self.backbone.freeze_gate(mask)
