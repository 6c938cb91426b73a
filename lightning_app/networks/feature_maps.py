"""What a trained recogniser sees on the way: the feature maps that perceptual losses compare."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_app.core.normalise import normalised
from lightning_app.networks.backbones.base import Backbone
from lightning_app.networks.backbones.resnet import STEM, InsertionPoint, ResNetBackbone


class FeatureMaps(nn.Module):
    """The feature maps of a plain backbone, frozen, of pictures in [0,1].

    They stand where RFR-Net takes VGG16's pool1 … pool3, whose weights are not to be had here.

    Args:
        backbone: a trained one, without gates; it is frozen, and kept in evaluation mode.
        mean: what its training subtracted from every channel, on [0,1] pixels.
        std: what its training divided by then.
        points: stages whose output is taken: a quarter, an eighth and a sixteenth of the pictures' side.

    Raises:
        ValueError: the backbone has gates, which depend on masks, or is no ResNet.
    """

    def __init__(
        self,
        backbone: Backbone,
        mean: float = 0.5,
        std: float = 0.5,
        points: Sequence[InsertionPoint] = ("layer1", "layer2", "layer3"),
    ) -> None:
        super().__init__()
        if backbone.looks_at_masks:
            kind = "ResNetFSM" if len(backbone.gates) else "ResNetPartial"
            raise ValueError(f"features: a {kind}'s depend on masks; give the checkpoint of a ResNet")
        if not isinstance(backbone, ResNetBackbone):
            raise ValueError(f"features: {type(backbone).__name__} is no ResNet; give a ResNet's checkpoint")
        self.mean, self.std = mean, std
        self.stem = nn.Sequential(*(getattr(backbone, name) for name in STEM))
        last = max(int(point[-1]) for point in points)
        self.stages = nn.ModuleDict({f"layer{i}": getattr(backbone, f"layer{i}") for i in range(1, last + 1)})
        self.points = tuple(points)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FeatureMaps:
        """Stay in evaluation mode, whatever is asked."""
        super().train(False)
        return self

    def forward(self, picture: Tensor) -> list[Tensor]:
        """Return the maps `[B,C_i,h_i,w_i]` of pictures `[B,3,H,W]`."""
        x, maps = self.stem(normalised(picture, self.mean, self.std)), []
        for name, stage in self.stages.items():
            x = stage(x)
            if name in self.points:
                maps.append(x)
        return maps
