"""Networks that draw a face of whatever a method releases: a plain U-Net, pix2pix's generator and its discriminator."""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_app.networks.bit_planes import channels_seen, with_bit_planes

PICTURE = 3  # channels of what is drawn
_WIDEST = 8  # times the first stage's channels: where pix2pix and U-Net stop doubling
_SLOPE = 0.2  # of pix2pix's leaky ReLU


class Restoring(nn.Module):
    """What both U-Nets share: how a released image comes in, with its mask, and goes out as a picture.

    A representation may be smaller than the face that it is made of, of any number of channels and any scale: it is
    enlarged to the face's size by repeating values, and its channels are brought to mean 0 and deviation 1 by running
    statistics. The mask is one channel more, of ones where nothing is hidden.

    Args:
        in_channels: of the released image.
        width: channels of the first stage.
        depth: stages that halve the side.
        bit_planes: see the bits of pictures too.

    Attributes:
        changes: where a picture was released, of the face's size, it is added to what the network draws.

    Raises:
        ValueError: an argument is below 1.
    """

    changes = False

    def __init__(self, in_channels: int, width: int, depth: int, bit_planes: bool = False) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("width", width), ("depth", depth)):
            if value < 1:
                raise ValueError(f"{name}: {value}; give at least 1")
        self.in_channels, self.width, self.depth = in_channels, width, depth
        self.bit_planes, self.channels = bit_planes, channels_seen(in_channels, bit_planes)
        self.standardise = nn.BatchNorm2d(self.channels, affine=False)

    def condition(
        self, image: Tensor, mask: Tensor | None, mask_index: Tensor | None, size: tuple[int, int]
    ) -> Tensor:
        """Make of a released image what networks see: `[B,C+1,H,W]`, the last channel is the mask; or `[B,9·C+1,H,W]`.

        Args:
            image: `[B,C,h,w]`, a picture in [0,1] or a representation of any values.
            mask: `[M,1,·,·]`, 1 = visible; None where nothing is hidden.
            mask_index: `[B]` int64 into the masks; None where M is 1 or B.
            size: (H, W) of the face.
        """
        image = with_bit_planes(image) if self.bit_planes else image
        seen = F.interpolate(self.standardise(image), size, mode="nearest-exact")
        if mask is None:
            own = seen.new_ones(1, 1, *size)
        else:
            own = F.interpolate(mask.to(seen), size, mode="nearest-exact")
            own = own if mask_index is None else own.index_select(0, mask_index)
        return torch.cat([seen, own.expand(len(image), -1, -1, -1)], 1)

    def forward(
        self, image: Tensor, mask: Tensor | None, mask_index: Tensor | None, size: tuple[int, int]
    ) -> Tensor:
        """Draw pictures `[B,3,H,W]`, not bounded unless the network bounds them; arguments as in `condition`."""
        return self.drawn(self.condition(image, mask, mask_index, size), image)

    def drawn(self, seen: Tensor, image: Tensor) -> Tensor:
        """Draw pictures.

        Args:
            seen: `[B,C+1,H,W]`, see `condition`.
            image: the released image itself.

        Returns:
            `[B,3,H,W]`.
        """
        height, width = seen.shape[2:]
        unit = 2**self.depth
        # 112 px halve four times without a rest; other sides are padded to ones that do
        padded = F.pad(seen, (0, -width % unit, 0, -height % unit), mode="replicate")
        drawn = self.draw_padded(padded)[..., :height, :width]
        fits = self.changes and image.shape[1:] == drawn.shape[1:]
        return drawn + image if fits else drawn

    @abstractmethod
    def draw_padded(self, seen: Tensor) -> Tensor:
        """Draw pictures of a side that halves `depth` times without a rest, `[B,C+1,H,W]` to `[B,3,H,W]`."""


class RestorationUNet(Restoring):
    """A full U-Net: two 3×3 convolutions with batch norm a stage, skips at every side, the finest too.

    Where a picture was released, what is drawn is a change of it: a method that hides little is then undone at once.

    Args:
        in_channels: of the released image.
        width: channels of the first stage; they double with every stage, up to eight times.
        depth: stages that halve the side.
        bit_planes: see the bits of pictures too.

    Source: Ronneberger et al., "U-Net", MICCAI 2015; with L1 and Adam 1e-3 the attacker of MinusFace, CVPR 2024.
    """

    def __init__(self, in_channels: int, width: int = 32, depth: int = 4, bit_planes: bool = False) -> None:
        super().__init__(in_channels, width, depth, bit_planes)
        widths = [width * min(2**stage, _WIDEST) for stage in range(depth + 1)]
        self.first = _twice(self.channels + 1, width)
        self.down = nn.ModuleList([_twice(a, b) for a, b in pairwise(widths)])
        self.enlarge = nn.ModuleList([nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairwise(widths)])
        self.up = nn.ModuleList([_twice(2 * a, a) for a in widths[:-1]])
        self.last = nn.Conv2d(width, PICTURE, 1)
        if in_channels == PICTURE:  # begins with what was released
            nn.init.zeros_(self.last.weight)
            assert self.last.bias is not None
            nn.init.zeros_(self.last.bias)

    changes = True

    def draw_padded(self, seen: Tensor) -> Tensor:
        """Draw pictures, or what is added to those released; see `Restoring.draw_padded`."""
        maps = [self.first(seen)]
        for down in self.down:
            maps.append(down(F.max_pool2d(maps[-1], 2)))
        x = maps.pop()
        for enlarge, up in zip(reversed(self.enlarge), reversed(self.up), strict=True):
            x = up(torch.cat([enlarge(x), maps.pop()], 1))
        drawn: Tensor = self.last(x)
        return drawn


class Pix2PixGenerator(Restoring):
    """pix2pix's U-Net: 4×4 convolutions of stride 2, batch norm, dropout in the innermost decoder stages for noise.

    Args:
        in_channels: of the released image.
        width: channels of the first stage; they double with every stage, up to eight times.
        depth: stages that halve the side; 112 px have four clean halvings.
        dropout: of the three innermost stages that enlarge, the outermost one never; 0 … 1.
        bit_planes: see the bits of pictures too.

    Source: Isola et al., "Image-to-image translation with conditional adversarial networks", CVPR 2017, appendix 6.1.
    """

    def __init__(
        self,
        in_channels: int,
        width: int = 64,
        depth: int = 4,
        dropout: float = 0.5,
        bit_planes: bool = False,
    ) -> None:
        super().__init__(in_channels, width, depth, bit_planes)
        widths = [width * min(2**stage, _WIDEST) for stage in range(depth)]
        down, up = [], []
        for stage, made in enumerate(widths):
            parts: list[nn.Module] = [] if stage == 0 else [nn.LeakyReLU(_SLOPE)]
            parts.append(nn.Conv2d(self.channels + 1 if stage == 0 else widths[stage - 1], made, 4, 2, 1))
            if 0 < stage < depth - 1:  # neither the first nor, of 1×1 maps in pix2pix, the innermost
                parts.append(nn.BatchNorm2d(made))
            down.append(nn.Sequential(*parts))
            taken = made if stage == depth - 1 else 2 * made
            given = PICTURE if stage == 0 else widths[stage - 1]
            parts = [nn.ReLU(), nn.ConvTranspose2d(taken, given, 4, 2, 1)]
            if stage > 0:
                parts.append(nn.BatchNorm2d(given))
                if stage >= depth - 3:
                    parts.append(nn.Dropout(dropout))
            up.append(nn.Sequential(*parts))
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)

    def draw_padded(self, seen: Tensor) -> Tensor:
        """Draw pictures in [0,1]; see `Restoring.draw_padded`."""
        maps = []
        x = seen
        for down in self.down:
            x = down(x)
            maps.append(x)
        x = maps.pop()
        for stage, up in enumerate(reversed(self.up)):
            x = up(x if stage == 0 else torch.cat([x, maps.pop()], 1))
        return (torch.tanh(x) + 1) / 2


class PatchDiscriminator(nn.Module):
    """pix2pix's PatchGAN: tell of each patch of a picture whether it is real, given what was released.

    Args:
        in_channels: of what was released, see `Restoring.condition`, and of the picture together.
        width: channels of the first convolution.
        layers: convolutions of stride 2; 3 see patches of 70 px.

    Source: Isola et al., CVPR 2017, appendix 6.1.2.
    """

    def __init__(self, in_channels: int, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        widths = [width * min(2**stage, _WIDEST) for stage in range(layers + 1)]
        parts: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, 2, 1), nn.LeakyReLU(_SLOPE)]
        for stage, (a, b) in enumerate(pairwise(widths)):
            stride = 2 if stage < layers - 1 else 1
            parts += [nn.Conv2d(a, b, 4, stride, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(_SLOPE)]
        self.network = nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 4, 1, 1))

    def forward(self, seen: Tensor, picture: Tensor) -> Tensor:
        """Return a logit for each patch, `[B,1,h,w]`.

        Args:
            seen: `[B,C+1,H,W]`, see `Restoring.condition`.
            picture: `[B,3,H,W]` in [0,1].
        """
        logits: Tensor = self.network(torch.cat([seen, picture * 2 - 1], 1))
        return logits


def initialise(network: nn.Module) -> None:
    """Draw weights as pix2pix does: N(0, 0.02) for convolutions, N(1, 0.02) for batch norm, biases 0.

    Args:
        network: whose weights are drawn in place.
    """
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(part.weight, 0.0, 0.02)
        elif isinstance(part, nn.BatchNorm2d) and part.affine:
            nn.init.normal_(part.weight, 1.0, 0.02)
        else:
            continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)


def _twice(taken: int, given: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for channels in (taken, given):
        parts += [nn.Conv2d(channels, given, 3, 1, 1, bias=False), nn.BatchNorm2d(given), nn.ReLU()]
    return nn.Sequential(*parts)
