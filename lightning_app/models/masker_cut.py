"""How a masker in training splits pictures, and how a network it learns against is kept still."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_app.masks.learned import Growth, Network, core_mask, grown

Weights = Literal["straight_through", "soft"]


@dataclass(frozen=True)
class Cut:
    """An image in two parts, as weights of its pixels.

    Attributes:
        mask: `[B,1,H,W]` of 0 and 1, 1 = visible.
        shown: `[B,1,H,W]`, what pixels are multiplied by for the predictor, with the masker's gradient.
        hidden: `[B,1,H,W]`, likewise for the obfuscator.
    """

    mask: Tensor
    shown: Tensor
    hidden: Tensor


def cut(masker: Network, image: Tensor, count: int, growth: Growth, weights: Weights) -> Cut:
    """Split pictures into what is shown and what is hidden, with the masker's gradient in both.

    Args:
        masker: maps `[B,3,H,W]` to logits `[B,1,H,W]`.
        image: `[B,3,H,W]` in [0,1].
        count: pixels shown of each.
        growth: how masks grow.
        weights: what shown pixels are multiplied by, see `AdversarialMasker`.
    """
    mask, rounds = grown(masker, image, count, growth)
    before = torch.zeros_like(mask)
    if growth.rounds:
        start = growth.counts(count)[0]
        before = core_mask(start, (image.shape[-2], image.shape[-1]), image.device).expand_as(mask)
    shown = before
    for logits, added in rounds:
        soft = logits.float().sigmoid()
        # straight through: the difference is exactly 0, its gradient that of the soft mask
        seen = added * soft if weights == "soft" else added + (1 - before) * (soft - soft.detach())
        shown = shown + seen
        before = before + added
    hidden = (1 - mask) * soft if weights == "soft" else 1 - shown
    return Cut(mask, shown, hidden)


@contextmanager
def frozen(*parts: nn.Module) -> Iterator[None]:
    """Run modules as in evaluation and without gradients of their own weights, while it lasts."""
    modes = [(module, module.training) for part in parts for module in part.modules()]
    weights = [(weight, weight.requires_grad) for part in parts for weight in part.parameters()]
    try:
        for part in parts:
            part.eval()
        for weight, _ in weights:
            weight.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for weight, wanted in weights:
            weight.requires_grad_(wanted)
