"""RFR-Net: holes filled from the edge inwards, one recurrence after the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_app.networks.partial_conv import PartialConv2d, of_images
from lightning_app.networks.rfr_attention import Attended, KnowledgeConsistentAttention


class Reasoning(nn.Module):
    """The encoder–decoder of every recurrence: strided stages, a dilated middle, attention on the way back.

    Args:
        width: channels in and out; each stage doubles them.
        depth: stages of stride 2, at least 2; the attention stands after the first step back up.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        widths = [width << stage for stage in range(depth + 1)]  # 64, 128, 256, 512
        top = widths[-1]
        strided = [
            _block(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.ReLU(inplace=True))
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        ]
        self.encoder = nn.ModuleList(
            [*strided, *(_dilated(top, top, nn.ReLU(inplace=True)) for _ in range(3))]
        )
        outs = [top, *reversed(widths[2:depth]), width]  # 512, 256, 64
        ins = [2 * top, *(a + b for a, b in zip(outs[:-1], reversed(widths[1:depth]), strict=True))]
        self.decoder = nn.ModuleList(
            [
                *(_dilated(2 * top, top, nn.LeakyReLU(0.2, inplace=True)) for _ in range(2)),
                *(
                    _block(nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True))
                    for a, b in zip(ins, outs, strict=True)
                ),
            ]
        )
        self.attention = KnowledgeConsistentAttention(top)

    def forward(
        self, x: Tensor, mask: Tensor, mask_index: Tensor | None, before: Attended | None
    ) -> tuple[Tensor, Attended]:
        """Reason once: `[B,width,h,w]` in and out, h and w multiples of 2^depth; masks `[M,1,h,w]`."""
        skips = []
        for encode in self.encoder:
            x = encode(x)
            skips.append(x)
        x = skips.pop()
        attended = before
        for number, decode in enumerate(self.decoder):
            x = decode(torch.cat([x, skips.pop()], 1))
            if number == 2:  # after the first step up: 32×32 at 256 px
                x, attended = self.attention(x, mask, mask_index, before)
        assert attended is not None
        return x, attended


class RFRNet(nn.Module):
    """Recurrent feature reasoning: partial convolutions shrink the hole, an encoder–decoder fills it, again.

    Two partial convolutions bring the picture to half its size; every recurrence (with the same weights) grows
    the known area by two more, and reasons about it; the maps of all recurrences are merged by the mean over
    those that knew the place; a last partial convolution joins the merged map with the picture. Under a mask of
    ones the partial convolutions are ordinary ones and the network is a plain restorer.

    Differences to the authors' code: sides that are no multiple of 2^(depth+1) are padded, hidden; width, depth
    and recurrences can be chosen.

    Args:
        width: channels of the outermost maps; 64 in the paper. A multiple of 8.
        recurrences: how often it reasons; 6 in the paper.
        depth: stride-2 stages within a recurrence; 3 in the paper, 2 or more.

    Raises:
        ValueError: an argument is out of range.

    Source: Li et al., "Recurrent feature reasoning for image inpainting", CVPR 2020.
    """

    def __init__(self, width: int = 64, recurrences: int = 6, depth: int = 3) -> None:
        super().__init__()
        if width < 8 or width % 8:
            raise ValueError(f"width: {width}; give a multiple of 8 (the paper takes 64)")
        if recurrences < 1:
            raise ValueError(f"recurrences: {recurrences}; give at least 1 (the paper takes 6)")
        if not 2 <= depth <= 5:
            raise ValueError(f"depth: {depth}; give 2 to 5 stages of stride 2 (the paper takes 3)")
        self.recurrences, self.multiple = recurrences, 2 << depth
        self.first = PartialConv2d(3, width, 7, 2, 3, bias=False)
        self.first_bn = nn.BatchNorm2d(width)
        self.second = PartialConv2d(width, width, 7, 1, 3, bias=False)
        self.second_bn = nn.BatchNorm2d(width)
        self.grow = nn.ModuleList(PartialConv2d(width, width, 7, 1, 3, bias=False) for _ in range(2))
        self.grow_bn = nn.BatchNorm2d(width)
        self.reasoning = Reasoning(width, depth)
        self.enlarge = _block(
            nn.ConvTranspose2d(width, width, 4, 2, 1, bias=False), nn.LeakyReLU(inplace=True)
        )
        self.join = PartialConv2d(width + 3, width // 2, 3, 1, 1, bias=False)
        self.refine = _Bottleneck(width // 2, width // 8)
        self.picture = nn.Conv2d(width, 3, 3, 1, 1, bias=False)

    def forward(self, image: Tensor, mask: Tensor | None = None, mask_index: Tensor | None = None) -> Tensor:
        """Draw whole pictures from what is visible.

        Args:
            image: `[B,3,H,W]` in [0,1]; what the mask hides does not count.
            mask: `[M,1,H,W]` of 0 and 1; None means all visible.
            mask_index: `[B]` int64 into the masks; None where M is 1 or B.

        Returns:
            `[B,3,H,W]`, not bounded.
        """
        height, width = image.shape[2:]
        mask = image.new_ones(1, 1, height, width) if mask is None else mask
        pad = (0, -width % self.multiple, 0, -height % self.multiple)
        if any(pad):
            image, mask = F.pad(image, pad), F.pad(mask, pad)
        picture: Tensor = self.picture(self._features(image, mask, mask_index))
        return picture[..., :height, :width]

    def _features(self, image: Tensor, mask: Tensor, which: Tensor | None) -> Tensor:
        x, known = self.first(image, mask, which)
        x, known = self.second(F.relu(self.first_bn(x), inplace=True), known, which)
        x = F.relu(self.second_bn(x), inplace=True)
        merged, count = x * of_images(known, which).to(x.dtype), known
        before: Attended | None = None
        for _ in range(self.recurrences):
            for grow in self.grow:
                x, known = grow(x, known, which)
            x = F.leaky_relu(self.grow_bn(x), inplace=True)
            x, before = self.reasoning(x, known, which, before)
            x = x * of_images(known, which).to(x.dtype)
            merged, count = merged + x, count + known
        # the mean over the recurrences that knew the place: counts are whole numbers, 0 where none did
        merged = merged / of_images(count.clamp_min(1), which).to(merged.dtype)
        seen = F.interpolate(known, scale_factor=2.0)
        both = torch.cat([mask.float().expand(-1, 3, -1, -1), seen.expand(-1, merged.shape[1], -1, -1)], 1)
        joined, _ = self.join(torch.cat([image.to(merged.dtype), self.enlarge(merged)], 1), both, which)
        joined = F.leaky_relu(joined, inplace=True)
        return torch.cat([joined, self.refine(joined)], 1)


class _Bottleneck(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_block(nn.Conv2d(channels, inner, 1, bias=False), nn.ReLU(inplace=True)),
            *_block(nn.Conv2d(inner, inner, 3, 1, 1, bias=False), nn.ReLU(inplace=True)),
            nn.Conv2d(inner, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + x)


def _block(conv: nn.Conv2d | nn.ConvTranspose2d, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), activation)


def _dilated(before: int, after: int, activation: nn.Module) -> nn.Sequential:
    return _block(nn.Conv2d(before, after, 3, 1, 2, dilation=2, bias=False), activation)
