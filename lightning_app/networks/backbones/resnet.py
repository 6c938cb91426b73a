"""torchvision's ResNets with room for gates after any of their four stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from lightning_app.networks.backbones.base import Backbone, Stage
from lightning_app.networks.fsm import Normaliser

BackboneName = Literal["resnet18", "resnet34", "resnet50"]
InsertionPoint = Literal["layer1", "layer2", "layer3", "layer4"]
INSERTION_POINTS: tuple[InsertionPoint, ...] = ("layer1", "layer2", "layer3", "layer4")
STEM = ("conv1", "bn1", "relu", "maxpool")
WIDTH = 64  # channels of torchvision's first stage
NARROWEST = 8  # channels
_LAYOUTS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}


class _Net(ResNet):  # type: ignore[misc]  # torchvision is not typed
    """torchvision's ResNet with the channels of every stage scaled; the stem keeps its 64."""

    def __init__(self, name: str, width: int) -> None:
        self.width = width
        super().__init__(*_LAYOUTS[name])

    def _make_layer(self, block: Any, planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
        scaled = planes // WIDTH * self.width  # 64, 128, 256 and 512 in torchvision's
        layer: nn.Sequential = super()._make_layer(block, scaled, *args, **kwargs)
        return layer


def feature_sizes(input_size: int) -> dict[InsertionPoint, int]:
    """Return the height (= width) of the feature map after each stage; 56, 28, 14 and 7 at 224 px."""
    # every stride-2 layer is padded, so it halves and rounds up, which divides by a power of 2 and rounds up
    return {point: -(-input_size // (4 << stage)) for stage, point in enumerate(INSERTION_POINTS)}


class ResNetBackbone(Backbone, names=tuple(_LAYOUTS)):
    """A ResNet without its head: images in, embeddings (avgpool output) out, gated where asked.

    Module names are torchvision's (`conv1`, `layer1`, …), so that its state dicts load.

    Args:
        name: which of torchvision's networks.
        insertion_points: stages after which an FSM gates the feature map; empty for a plain ResNet.
        input_size: height and width of images and masks; only gates depend on it.
        normalise: how the FSMs come to (0,1).
        in_channels: channels of the image, a desensitizer's `out_channels`.
        width: channels of the first stage, 64 in torchvision's; the later ones, and the embedding, grow and shrink
            with it.

    Raises:
        ValueError: an unknown network or insertion point, a feature map too small for a gate, or a width below 8.
    """

    foldable = True
    points = INSERTION_POINTS

    def __init__(
        self,
        name: BackboneName = "resnet34",
        insertion_points: Sequence[str] = (),
        input_size: int = 224,
        normalise: Normaliser = "sigmoid",
        in_channels: int = 3,
        width: int = WIDTH,
    ) -> None:
        super().__init__()
        if name not in _LAYOUTS:
            raise ValueError(f"backbone={name!r}: choose one of {', '.join(_LAYOUTS)}")
        if width < NARROWEST:
            raise ValueError(
                f"width: {width} channels, give {NARROWEST} or more (torchvision's is {WIDTH}): convolutions of fewer, "
                "trained in channels_last, corrupt memory in torch 2.14 on CPUs without AVX-512"
            )
        net = _Net(name, width)
        for part in (*STEM, *INSERTION_POINTS):
            self.add_module(part, getattr(net, part))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        if in_channels != 3:
            self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        last = [getattr(self, point)[-1] for point in INSERTION_POINTS]
        self._channels = tuple(int(block.bn1.num_features * block.expansion) for block in last)
        self.dim = self._channels[-1]
        self.place_gates(insertion_points, input_size, normalise)

    def stages(self, input_size: int) -> dict[str, Stage]:
        """Describe the four stages' feature maps; 56, 28, 14 and 7 px of 224."""
        sizes = feature_sizes(input_size).values()
        return dict(zip(INSERTION_POINTS, map(Stage, self._channels, sizes), strict=True))

    def stem_of(self, image: Tensor) -> Tensor:
        """Return what `layer1` takes, a quarter of the images' side."""
        x = image
        for part in STEM:
            x = getattr(self, part)(x)
        return x

    def embedding_of(self, x: Tensor) -> Tensor:
        """Return the avgpool output."""
        return torch.flatten(self.avgpool(x), 1)
