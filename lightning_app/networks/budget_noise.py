"""Laplace noise within a network, of a privacy budget whose spread over the channels is learnt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_app.core.draws import seed_from
from lightning_app.core.laplace import PER_SCALE, add_laplace, image_hash

_EVEN = 1e-3  # of the budget is spread evenly: no channel's noise grows beyond all numbers
_SALT = 2207  # of this draw
_KEYS = ("image", "noise", "place")


def shares_of(logits: Tensor) -> Tensor:
    """Return what share of the budget each channel has.

    Args:
        logits: `[C]` float32; equal ones spread it evenly.

    Returns:
        `[C]` float64, at least 0.001/C each, summing to 1.
    """
    return logits.double().softmax(0) * (1 - _EVEN) + _EVEN / len(logits)


class BudgetNoise(nn.Module):
    """Add Laplace noise of the scale range_c / ε_c to channel c, where ε_c = epsilon·C·share_c.

    The shares are the softmax of learnt logits (all but a thousandth of the budget, which is spread evenly), so that
    their sum, the budget, stays what was asked. The gradient goes through the noise's scale: more noise where the
    network is disturbed least.

    Args:
        channels: C.
        epsilon: of a value, averaged over the channels.

    Raises:
        ValueError: epsilon is not positive.

    Source: Ji et al., "Privacy-preserving face recognition with learnable privacy budgets in frequency domain",
    ECCV 2022; there a value of every place has its own share.
    """

    ranges: Tensor

    def __init__(self, channels: int, epsilon: float = 3.0) -> None:
        super().__init__()
        if not 0 < epsilon < float("inf"):
            raise ValueError(f"epsilon: {epsilon}; give a number above 0 (the paper takes 3)")
        self.epsilon = epsilon
        self.logits = nn.Parameter(torch.zeros(channels))
        self.register_buffer("ranges", torch.ones(channels))

    def epsilons(self) -> Tensor:
        """Return the budget of a value of each channel: `[C]` float64, `epsilon` on average."""
        return shares_of(self.logits) * len(self.logits) * self.epsilon

    def forward(self, image: Tensor, *salt: int) -> Tensor:
        """Add noise, drawn by the salt and by what the images show.

        Args:
            image: `[B,C,h,w]` float.
            salt: integers, such as seed and step; anybody may know them: this noise protects nobody.

        Returns:
            `[B,C,h,w]` float32.
        """
        image = image.float().contiguous()
        keys = {name: _keys(name, salt) for name in _KEYS}
        with torch.no_grad():
            noise = torch.zeros_like(image)
            add_laplace(
                noise.flatten(1), PER_SCALE, image_hash(image, keys["image"]), keys["noise"], keys["place"]
            )
        scale = self.ranges / self.epsilons().float() / PER_SCALE
        return image + noise * scale[:, None, None]


def _keys(name: str, salt: Sequence[int]) -> list[int]:
    return [seed_from(_SALT, *name.encode(), *salt, number) for number in range(4)]
