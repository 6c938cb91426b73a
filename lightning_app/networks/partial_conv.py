"""Partial convolution: only visible pixels count, and what a window sees becomes visible."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PartialConv2d(nn.Conv2d):
    """Convolve what is visible, scaled up for what is not, and grow the mask (Liu et al. 2018, formulas 1 and 2).

    `out = conv(x ⊙ m) · (window / Σm) + bias` where the window sees a visible value (Σm > 0), else 0; the new
    mask is 1 there. The window counts k·k·C values wherever it lies: padding counts as hidden, so that under a
    mask of ones all is an ordinary convolution but for a border as wide as the padding, which is scaled up
    ("partial convolution based padding", as in the authors' code).

    Args: as for `nn.Conv2d`.

    Source: Liu et al., "Image inpainting for irregular holes using partial convolutions", ECCV 2018.
    """

    def forward(  # type: ignore[override]  # a mask goes in and comes out
        self, x: Tensor, mask: Tensor, mask_index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Convolve images under their masks.

        Args:
            x: `[B,C,H,W]`; what the masks hide does not count.
            mask: `[M,1,H,W]`, or `[M,C,H,W]` where channels differ in what is visible; 0 and 1.
            mask_index: `[B]` int64, which of the M masks lies on each image; None where M is 1 or B.

        Returns:
            `[B,C',h,w]`, and the new masks `[M,1,h,w]`, float32 of 0 and 1.
        """
        scale, seen = self.windows(mask, x.shape[1])
        own = of_images(mask, mask_index).to(x.dtype)
        out = F.conv2d(x * own, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        out = out * of_images(scale, mask_index).to(out.dtype)
        if self.bias is not None:
            out = out + self.bias.to(out.dtype).view(1, -1, 1, 1) * of_images(seen, mask_index).to(out.dtype)
        return out, seen

    @torch.no_grad()
    def windows(self, mask: Tensor, channels: int) -> tuple[Tensor, Tensor]:
        """Count what each window sees.

        Args:
            mask: `[M,1,H,W]` or `[M,C,H,W]`.
            channels: C.

        Returns:
            `[M,1,h,w]` float32 each: window / Σm, 0 where nothing is seen; and 1 where something is.
        """
        height, width = self.kernel_size
        each = mask.float()  # sums of ones up to k·k·C: beyond what bf16 counts exactly
        with torch.autocast(mask.device.type, enabled=False):
            ones = torch.ones(1, 1, height, width, device=mask.device)
            total = F.conv2d(
                each.sum(1, keepdim=True), ones, None, self.stride, self.padding, self.dilation
            ).round()
        window = height * width * mask.shape[1]
        seen = (total > 0).float()
        return seen * window / total.clamp_min(1), seen


def of_images(values: Tensor, mask_index: Tensor | None) -> Tensor:
    """Give each image its mask's values: `[M,…]` to `[B,…]`; as they are where all images share one.

    Args:
        values: `[M,…]`.
        mask_index: `[B]` int64 into them; None where M is 1 or B.
    """
    return values if mask_index is None or len(values) == 1 else values.index_select(0, mask_index)
