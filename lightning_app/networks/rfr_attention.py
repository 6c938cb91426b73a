"""Attention that remembers where it looked the time before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_app.networks.partial_conv import of_images

_SMALL = 1e-7


@dataclass
class Attended:
    """What an attention remembers of the recurrence before.

    Attributes:
        scores: `[B,hw,h,w]`, for each place (last two) the share of every source (second), summing to 1.
        mask: `[B or 1,1,h,w]`, 1 where the features of that recurrence were known.
    """

    scores: Tensor
    mask: Tensor


class KnowledgeConsistentAttention(nn.Module):
    """Rebuild each place of a map from similar places, mixing in where it looked in the recurrence before.

    Similarity of place p to source s is `⟨x_p, x_s / |x_s|⟩`, summed over the 3×3 places around p (same source);
    a softmax over the sources makes scores. Where the map was known in the recurrence before (`m'` = 1) they
    are the mean of the earlier scores and these, weighted 1 : |λ|, elsewhere these alone: `(m'·s' + |λ|·s) /
    (m' + |λ|)`, with a learnt λ that starts at 1. The rebuilt map is `Σ_s score · x_s / |x_s|`; a 1×1
    convolution joins it with x.

    Args:
        channels: of the map.

    Source: Li et al., "Recurrent feature reasoning for image inpainting", CVPR 2020, section 3.2; similarity and
    unit sources as in the authors' code (formula 2 divides by both norms, which makes a far softer softmax).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ratio = nn.Parameter(torch.ones(1))
        self.combine = nn.Conv2d(2 * channels, channels, 1)

    def forward(
        self, x: Tensor, mask: Tensor, mask_index: Tensor | None = None, before: Attended | None = None
    ) -> tuple[Tensor, Attended]:
        """Compute attention over the map.

        Args:
            x: `[B,C,h,w]`.
            mask: `[M,1,H,W]` of the known features, at any resolution (sampled nearest).
            mask_index: `[B]` int64 into the masks; None where M is 1 or B.
            before: what the recurrence before remembered; None in the first.

        Returns:
            `[B,C,h,w]`, and what to remember.
        """
        count, _, height, width = x.shape
        known = of_images(F.interpolate(mask.float(), (height, width)), mask_index)
        flat = x.flatten(2)  # [B,C,hw]
        sources = F.normalize(flat.float() + _SMALL, dim=1).to(flat.dtype)
        alike = torch.bmm(sources.transpose(1, 2), flat).view(count, -1, height, width)
        around = F.avg_pool2d(alike.float(), 3, 1, 1) * 9
        scores = around.softmax(1)
        if before is not None:
            share = self.ratio.abs() + _SMALL
            scores = (before.scores * before.mask + scores * share) / (before.mask + share)
        rebuilt = torch.bmm(sources, scores.flatten(2).to(sources.dtype)).view_as(x)
        joined: Tensor = self.combine(torch.cat([rebuilt.to(x.dtype), x], 1))
        return joined, Attended(scores, known)
