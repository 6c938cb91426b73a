"""A U-Net: images in, a map of the same size out, for images of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_MOST_STAGES = 8
_NARROWEST = 8  # channels


class DoubleConv(nn.Sequential):
    """Twice a 3×3 convolution, batch norm and ReLU.

    Args:
        channels: of the input.
        width: of the output.
    """

    def __init__(self, channels: int, width: int) -> None:
        parts: list[nn.Module] = []
        for entering in (channels, width):
            parts += [
                nn.Conv2d(entering, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True),
            ]  # fmt: skip
        super().__init__(*parts)


def check_unet(width: int, depth: int, width_name: str = "width", depth_name: str = "depth") -> None:
    """Check the settings of a U-Net.

    Args:
        width: channels of the first stage.
        depth: halvings.
        width_name: what the user calls `width`.
        depth_name: what the user calls `depth`.

    Raises:
        ValueError: one is out of range.
    """
    if width < _NARROWEST:
        raise ValueError(
            f"{width_name}={width}: give at least {_NARROWEST}; convolutions of fewer channels, trained in "
            "channels_last, corrupt memory in torch 2.14 on CPUs without AVX-512"
        )
    if not 1 <= depth <= _MOST_STAGES:
        raise ValueError(f"{depth_name}={depth}: give 1 to {_MOST_STAGES}")


class UNet(nn.Module):
    """Return a map as large as the image: maps are halved `depth` times, enlarged again and joined with those before.

    Odd sides are rounded up where maps are halved, and enlarged to the exact size of the map they are joined with: so
    any height and width goes. The last convolution and what it returns are in fp32 whatever the precision of the rest:
    bf16 has 8 bits, and most of an image's pixels would tie.

    Args:
        in_channels: of the images.
        out_channels: of the map.
        width: channels of the outermost maps, 8 or more; they double with every halving.
        depth: how often maps are halved.

    Raises:
        ValueError: a number is below 1, `width` below 8, or `depth` above 8.

    Source: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015; with padding, batch norm, and nearest neighbours in place
    of transposed convolutions.
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 1, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        for name, value in {"in_channels": in_channels, "out_channels": out_channels}.items():
            if value < 1:
                raise ValueError(f"{name}={value}: give at least 1")
        check_unet(width, depth)
        widths = [width * 2**stage for stage in range(depth + 1)]
        self.stem = DoubleConv(in_channels, width)
        pairs = list(zip(widths, widths[1:], strict=False))
        self.down = nn.ModuleList(DoubleConv(narrow, wide) for narrow, wide in pairs)
        self.up = nn.ModuleList(DoubleConv(narrow + wide, narrow) for narrow, wide in reversed(pairs))
        self.last = nn.Linear(width, out_channels)  # of every pixel's channels: a 1×1 convolution

    def forward(self, image: Tensor) -> Tensor:
        """Compute the map.

        Args:
            image: `[B,in_channels,H,W]`.

        Returns:
            `[B,out_channels,H,W]` fp32 logits, not bounded.
        """
        x = self.stem(image.to(self.last.weight.dtype))
        skips = []
        for stage in self.down:
            skips.append(x)
            x = stage(F.max_pool2d(x, 2, ceil_mode=True))
        for stage in self.up:
            skip = skips.pop()
            x = stage(torch.cat([skip, F.interpolate(x, size=skip.shape[2:], mode="nearest")], dim=1))
        with torch.autocast(x.device.type, enabled=False):
            pixels = x.float().permute(0, 2, 3, 1)
            return F.linear(pixels, self.last.weight.float(), self.last.bias.float()).permute(0, 3, 1, 2)
