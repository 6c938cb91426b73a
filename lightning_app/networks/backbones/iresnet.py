"""IR-50 and IR-SE-50, the backbones that ArcFace is trained with, with room for gates after their four stages."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_app.networks.backbones.base import Backbone, Stage
from lightning_app.networks.backbones.resnet import INSERTION_POINTS, NARROWEST, WIDTH

IResNetName = Literal["ir50", "irse50"]
DROPOUT = 0.4  # paper 2, training details
DIM = 512  # of the embedding, of the whole network
_REDUCTION = 16  # of channels, in squeeze-and-excitation
_SIDE = 112  # px, of the faces it was made for
_SMALLEST = 16  # px: below, the last stage would have nothing left to halve


class Excite(nn.Module):
    """Squeeze-and-excitation: scale each channel by a function of all channels' means (Hu et al., 2018).

    Args:
        channels: of the map; a sixteenth of them, at least 1, are left between.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        between = max(channels // _REDUCTION, 1)
        self.fc1 = nn.Conv2d(channels, between, 1, bias=False)
        self.fc2 = nn.Conv2d(between, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x ⊙ σ(W₂ ReLU(W₁ mean(x)))`, `[B,C,h,w]`."""
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True)))))


class Unit(nn.Module):
    """A residual unit: BN, 3×3 convolution, PReLU, 3×3 convolution with stride, BN, perhaps squeeze-and-excitation.

    Nothing follows the sum. Where the width stays, the shortcut takes every stride-th cell; else it is a 1×1
    convolution with BN.

    Args:
        channels: of its input.
        width: of its output.
        stride: 1 or 2.
        excite: with squeeze-and-excitation.
    """

    def __init__(self, channels: int, width: int, stride: int, excite: bool) -> None:
        super().__init__()
        self.shortcut: nn.Module = nn.MaxPool2d(1, stride)
        if channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        steps: list[nn.Module] = [
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, width, 3, 1, 1, bias=False),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
        ]
        self.residual = nn.Sequential(*steps, *([Excite(width)] if excite else []))

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both ways, `[B,width,h/stride,w/stride]`, sizes rounded up."""
        found: Tensor = self.residual(x) + self.shortcut(x)
        return found


class IResNet(Backbone, names=("ir50", "irse50")):
    """An improved residual network of 50 layers: images in, embeddings out, gated where asked.

    A 3×3 convolution without stride, BN, PReLU; 3, 4, 14 and 3 units at 64, 128, 256 and 512 channels, the first of
    each stage with stride 2; BN, dropout, one linear layer of the whole last map, BN. As InsightFace has it. Its
    embedding is that linear layer's, not an average: a network is made for one size of images.

    Args:
        name: `irse50` with squeeze-and-excitation in every unit, `ir50` without.
        in_channels: channels of the images, a desensitizer's `out_channels`.
        input_size: height and width of the images, in pixels; the linear layer depends on it.
        width: channels of the first stage, 64 in the paper's; later ones, and the embedding, grow and shrink with it.
        dropout: share left out before the linear layer, 0 … 1 (paper 2: 0.4).

    Raises:
        ValueError: an unknown name, images below 16 px, a width below 8, or a dropout outside 0 … 1.

    Attributes:
        units: of each stage.
    """

    points = INSERTION_POINTS
    smallest = _SMALLEST
    units: ClassVar[tuple[int, int, int, int]] = (3, 4, 14, 3)

    def __init__(
        self,
        name: IResNetName = "irse50",
        in_channels: int = 3,
        input_size: int = _SIDE,
        width: int = WIDTH,
        dropout: float = DROPOUT,
    ) -> None:
        super().__init__()
        if name not in ("ir50", "irse50"):
            raise ValueError(f"backbone={name!r}: choose one of ir50, irse50")
        if width < NARROWEST:
            raise ValueError(f"width: {width} is below {NARROWEST} channels; {WIDTH} is the paper's")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: {dropout} of the backbone is not within 0 … 1; 0.4 is the paper's")
        self.place_gates((), input_size)  # refuses too small images before anything is made for them
        self.dim = DIM * width // WIDTH
        self.input_size, self._widths = input_size, tuple(width * 2**stage for stage in range(4))
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        channels = width
        for point, units, out in zip(INSERTION_POINTS, self.units, self._widths, strict=True):
            kinds = [(channels, 2), *[(out, 1)] * (units - 1)]
            self.add_module(
                point, nn.Sequential(*(Unit(c, out, stride, name == "irse50") for c, stride in kinds))
            )
            channels = out
        side = self.stages(input_size)["layer4"].size
        self.output = nn.Sequential(
            nn.BatchNorm2d(channels), nn.Dropout(dropout), nn.Flatten(),
            nn.Linear(channels * side * side, self.dim), nn.BatchNorm1d(self.dim),
        )  # fmt: skip
        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(part.weight)
        self.place_gates((), input_size)  # gates last: state dicts keep their order

    def stages(self, input_size: int) -> dict[str, Stage]:
        """Describe the four stages' feature maps; 56, 28, 14 and 7 px of 112."""
        sizes = [-(-input_size // (2 << stage)) for stage in range(4)]
        return dict(zip(INSERTION_POINTS, map(Stage, self._widths, sizes), strict=True))

    def stem_of(self, image: Tensor) -> Tensor:
        """Return what `layer1` takes, as large as the images.

        Raises:
            ValueError: images of another size than the network was made for, or one alone in training.
        """
        if image.shape[-2:] != (self.input_size, self.input_size):
            height, width = image.shape[-2:]
            raise ValueError(
                f"images of {height}×{width} px: this {type(self).__name__} was made for {self.input_size} px, its "
                "linear layer takes no others"
            )
        if self.training and len(image) == 1:
            raise ValueError(
                f"one image in a step: the embedding of {type(self).__name__} is batch-normalised, and one has no "
                "spread; give 2 images or more a process (data.global_batch_size)"
            )
        found: Tensor = self.stem(image)
        return found

    def embedding_of(self, x: Tensor) -> Tensor:
        """Return the last linear layer's output, batch-normalised."""
        found: Tensor = self.output(x)
        return found


class IR50(IResNet):
    """IR-50 by `class_path`, see `IResNet`: 43,574,976 parameters at three channels and 112 px.

    Args:
        in_channels: channels of the images.
        input_size: height and width of the images, in pixels.
        width: channels of the first stage; a smaller one makes a small network.
        dropout: share left out before the linear layer, 0 … 1 (paper 2: 0.4).

    Raises:
        ValueError: images below 16 px, a width below 8, or a dropout outside 0 … 1.
    """

    def __init__(
        self, in_channels: int = 3, input_size: int = _SIDE, width: int = WIDTH, dropout: float = DROPOUT
    ) -> None:
        super().__init__("ir50", in_channels, input_size, width, dropout)


class IRSE50(IResNet):
    """IR-SE-50 by `class_path`, see `IResNet`: 43,797,696 parameters at three channels and 112 px.

    Args:
        in_channels: channels of the images.
        input_size: height and width of the images, in pixels.
        width: channels of the first stage; a smaller one makes a small network.
        dropout: share left out before the linear layer, 0 … 1 (paper 2: 0.4).

    Raises:
        ValueError: images below 16 px, a width below 8, or a dropout outside 0 … 1.
    """

    def __init__(
        self, in_channels: int = 3, input_size: int = _SIDE, width: int = WIDTH, dropout: float = DROPOUT
    ) -> None:
        super().__init__("irse50", in_channels, input_size, width, dropout)


def iresnet50(
    in_channels: int = 3, input_size: int = _SIDE, width: int = WIDTH, dropout: float = DROPOUT
) -> IR50:
    """Make an IR-50, see `IR50`.

    Args:
        in_channels: channels of the images.
        input_size: height and width of the images, in pixels.
        width: channels of the first stage.
        dropout: share left out before the linear layer, 0 … 1.

    Raises:
        ValueError: images below 16 px, a width below 8, or a dropout outside 0 … 1.
    """
    return IR50(in_channels, input_size, width, dropout)


def irse50(
    in_channels: int = 3, input_size: int = _SIDE, width: int = WIDTH, dropout: float = DROPOUT
) -> IRSE50:
    """Make an IR-SE-50, see `IRSE50`.

    Args:
        in_channels: channels of the images.
        input_size: height and width of the images, in pixels.
        width: channels of the first stage.
        dropout: share left out before the linear layer, 0 … 1.

    Raises:
        ValueError: images below 16 px, a width below 8, or a dropout outside 0 … 1.
    """
    return IRSE50(in_channels, input_size, width, dropout)
