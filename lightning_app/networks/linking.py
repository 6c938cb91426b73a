"""A student that embeds whatever a method releases, where a recogniser embeds the clean face."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_app.networks.backbones import WIDTH, make_backbone
from lightning_app.networks.bit_planes import channels_seen, with_bit_planes


class LinkStudent(nn.Module):
    """A backbone, behind it a linear layer into the recogniser's space.

    Channels are brought to mean 0 and deviation 1 by running statistics, whatever their scale; what is smaller than
    the face is enlarged to its size by repeating values.

    Args:
        backbone: a network of ours by name.
        in_channels: of what is released.
        pixels: side of the faces.
        dim: of the recogniser's embeddings.
        width: channels of the backbone's first stage.
        bit_planes: see the bits of pictures too.

    Raises:
        ValueError: there is no such backbone, or faces are too small for it.
    """

    def __init__(
        self,
        backbone: str,
        in_channels: int,
        pixels: int,
        dim: int,
        width: int = WIDTH,
        bit_planes: bool = False,
    ) -> None:
        super().__init__()
        self.pixels, self.bit_planes = pixels, bit_planes
        in_channels = channels_seen(in_channels, bit_planes)
        self.standardise = nn.BatchNorm2d(in_channels, affine=False)
        self.backbone = make_backbone(backbone, in_channels, pixels, width).place_gates((), pixels)
        self.project = nn.Linear(self.backbone.dim, dim)

    def forward(self, image: Tensor) -> Tensor:
        """Embed released images `[B,C,h,w]`, not normalised, into `[B,D]`, not normalised."""
        image = with_bit_planes(image) if self.bit_planes else image
        seen = F.interpolate(self.standardise(image), (self.pixels, self.pixels), mode="nearest-exact")
        embedded: Tensor = self.project(self.backbone(seen))
        return embedded
