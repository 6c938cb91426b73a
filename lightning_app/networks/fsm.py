"""Feature Selection Masknet: a gate on a feature map, learnt from the mask alone."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

Normaliser = Literal["sigmoid", "hardsigmoid", "minmax"]


class MinMax(nn.Module):
    """Normalise every channel of a map to [0,1] by its own minimum and maximum."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N,C,h,w]` to [0,1]; a constant channel becomes 0."""
        low, high = x.amin(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
        return (x - low) / (high - low).clamp_min(1e-6)


_NORMALISERS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "hardsigmoid": nn.Hardsigmoid,
    "minmax": MinMax,
}


def resized_mask(mask: Tensor, feature_size: int) -> Tensor:
    """Resize a mask to a feature map: a cell shows where at least half of its pixels show.

    Args:
        mask: `[N,1,H,W]` of 0 (hidden) and 1 (visible).
        feature_size: height and width of the feature map.

    Returns:
        `m_r [N,1,h,w]` of 0 and 1 in the mask's dtype (design, section 3: average pool ≥ 0.5).
    """
    return (F.adaptive_avg_pool2d(mask, feature_size) >= 0.5).to(mask.dtype)


class FSM(nn.Module):
    """Feature Selection Masknet: `gate = fsm(m) ⊙ (1 − m_r) + m_r` (paper, formula 6, both terms).

    `fsm` is a stack of (3×3 convolution of stride 2, batch norm, ReLU) blocks, as many as lead from
    `input_size` to `feature_size`; the widths double up to `channels`, and the last block is normalised to
    (0,1) instead of rectified. Where `m_r` is 1 the gate is exactly 1.

    It runs once per distinct mask (N = M, not B). In training its batch norm then sees M maps where M copies
    per image would be B; mean and biased variance are the same for a shared mask, only the running variance
    differs by its n/(n−1).

    As SyncBatchNorm (`trainer.sync_batchnorm`, GPUs alone) it counts the maps of all ranks. Where all images of
    a step share one mask these are copies of the same, and again only the running variance's n/(n−1) changes.
    Where images draw masks of their own, each rank sees other masks: without sync its statistics, and so its
    gates, are those of its own share, with sync those of the global batch.

    Args:
        channels: channels C of the feature map it gates.
        feature_size: height and width of that map, larger than 1.
        input_size: height and width of the mask, larger than `feature_size`.
        normalise: how the last block comes to (0,1).

    Raises:
        ValueError: the map is 1×1, or halving `input_size` does not lead to `feature_size`.
    """

    def __init__(
        self, channels: int, feature_size: int, input_size: int, normalise: Normaliser = "sigmoid"
    ) -> None:
        super().__init__()
        if feature_size <= 1:
            raise ValueError(
                f"feature_size={feature_size}: a gate needs a feature map larger than 1×1; use larger images "
                "or an earlier insertion point"
            )
        if normalise not in _NORMALISERS:
            raise ValueError(f"normalise={normalise!r}: choose one of {', '.join(_NORMALISERS)}")
        sizes = [input_size]
        while sizes[-1] > feature_size:
            sizes.append((sizes[-1] + 1) // 2)
        if sizes[-1] != feature_size or len(sizes) == 1:
            raise ValueError(
                f"feature_size={feature_size}: halving input_size={input_size} gives "
                f"{', '.join(map(str, sizes[1:])) or 'nothing smaller'}; choose one of these"
            )
        self.channels, self.feature_size, self.input_size = channels, feature_size, input_size
        depth = len(sizes) - 1
        widths = [1] + [max(channels >> (depth - 1 - i), min(8, channels)) for i in range(depth)]
        blocks: list[nn.Module] = []
        for i, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            last = i == depth - 1
            blocks += [
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                _NORMALISERS[normalise]() if last else nn.ReLU(inplace=True),
            ]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, mask: Tensor) -> Tensor:
        """Return the gate of each mask.

        Args:
            mask: `[N,1,H,W]` of 0 (hidden) and 1 (visible), H = W = `input_size`.

        Returns:
            `[N,C,h,w]` in [0,1], exactly 1 where the resized mask shows.

        Raises:
            ValueError: the mask has another shape.
        """
        if mask.ndim != 4 or tuple(mask.shape[1:]) != (1, self.input_size, self.input_size):
            raise ValueError(
                f"mask of shape {list(mask.shape)}: this gate was built for "
                f"[N, 1, {self.input_size}, {self.input_size}]; use a mask of the images' size"
            )
        selected: Tensor = self.blocks(mask)
        shown = resized_mask(mask, self.feature_size).to(selected.dtype)
        return selected * (1 - shown) + shown
