"""What a network that restores pictures is trained on: pure functions, means over all their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Features = Callable[[Tensor], Sequence[Tensor]]
PARTS = ("valid", "hole", "perceptual", "style", "tv")


def l1(a: Tensor, b: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return `mean(|a − b| · weight)`, the mean over all pixels and channels, those of weight 0 as well.

    Args:
        a: `[B,C,H,W]`.
        b: the same shape.
        weight: `[B or 1,1,H,W]`; None weighs everything 1.

    Source: the valid (weight: the mask) and hole (1 − mask) losses of Liu et al. 2018, formula 3.
    """
    gap = (a.float() - b.float()).abs()
    return (gap if weight is None else gap * weight.float()).mean()


def perceptual(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Return the sum over feature maps of `mean |a_i − b_i|`.

    Args:
        a: maps `[B,C_i,h_i,w_i]`.
        b: maps of the same shapes.

    Source: Liu et al. 2018, formula 4.
    """
    return torch.stack([l1(x, y) for x, y in zip(a, b, strict=True)]).sum()


def style(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Return the sum over feature maps of `mean |G(a_i) − G(b_i)|`, with the Gram matrix `G(x) = x xᵀ / (C h w)`.

    Args:
        a: maps `[B,C_i,h_i,w_i]`; in G they are `[C, h·w]`.
        b: maps of the same shapes.

    Source: Liu et al. 2018, formula 5.
    """
    return torch.stack([l1(gram(x), gram(y)) for x, y in zip(a, b, strict=True)]).sum()


def gram(x: Tensor) -> Tensor:
    """Return the Gram matrices `[B,C,C]` of maps `[B,C,h,w]`, divided by C·h·w, in fp32."""
    flat = x.float().flatten(2)
    with torch.autocast(x.device.type, enabled=False):  # bf16 has three digits, a sum over h·w needs more
        return torch.bmm(flat, flat.transpose(1, 2)) / (flat.shape[1] * flat.shape[2])


def total_variation(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean absolute step to the right plus the mean absolute step down.

    Args:
        x: `[B,C,H,W]`.
        mask: `[B or 1,1,H,W]`; steps between two visible pixels (1) count 0. None counts every step.

    Source: Liu et al. 2018, formula 6, whose region is the hole and a pixel around it. (RFR-Net's code takes it of
    the picture blackened outside the hole, which draws the hole's edge to black.)
    """
    x = x.float()
    right, down = (x[..., 1:] - x[..., :-1]).abs(), (x[..., 1:, :] - x[..., :-1, :]).abs()
    if mask is not None:
        m = mask.float()
        right = right * (1 - m[..., 1:] * m[..., :-1])
        down = down * (1 - m[..., 1:, :] * m[..., :-1, :])
    return right.mean() + down.mean()


def restoration(
    output: Tensor, clean: Tensor, mask: Tensor | None = None, features: Features | None = None
) -> dict[str, Tensor]:
    """Return the parts of RFR-Net's loss, not weighted.

    Perceptual and style loss are each the sum of that of the output and that of the composite, in which visible
    pixels are the true ones. Without a mask every pixel has to be guessed: the L1 over the whole picture is
    `hole`, `valid` is 0, and the composite is the output, counted once.

    Args:
        output: `[B,3,H,W]`, the network's.
        clean: the same shape, in [0,1].
        mask: `[B or 1,1,H,W]` of 0 (hidden) and 1 (visible), or None.
        features: pictures to a list of feature maps; None leaves `perceptual` and `style` out.

    Returns:
        Scalars by name: `valid`, `hole`, `tv` and, with features, `perceptual` and `style`.

    Source: Li et al., "Recurrent feature reasoning for image inpainting", CVPR 2020, section 3.4.
    """
    output, clean = output.float(), clean.float()
    if mask is None:
        composite = output
        parts = {"valid": output.new_zeros(()), "hole": l1(output, clean)}
    else:
        m = mask.float()
        composite = output * (1 - m) + clean * m
        parts = {"valid": l1(output, clean, m), "hole": l1(output, clean, 1 - m)}
    parts["tv"] = total_variation(composite, mask)
    if features is None:
        return parts
    with torch.no_grad():
        true = features(clean)
    guesses = [output] if mask is None else [output, composite]
    maps = [x.chunk(len(guesses)) for x in features(torch.cat(guesses))]
    for name, loss in (("perceptual", perceptual), ("style", style)):
        parts[name] = torch.stack([loss(true, [m[i] for m in maps]) for i in range(len(guesses))]).sum()
    return parts


def discriminator_loss(real: Tensor, drawn: Tensor) -> Tensor:
    """Return half the cross-entropy of telling real patches from drawn ones (pix2pix halves it, to slow it down).

    Args:
        real: logits of real pictures' patches, any shape.
        drawn: logits of drawn pictures' patches.

    Source: Isola et al., CVPR 2017, formula 1 and section 3.3.
    """
    right = F.binary_cross_entropy_with_logits(real.float(), torch.ones_like(real, dtype=torch.float32))
    left = F.binary_cross_entropy_with_logits(drawn.float(), torch.zeros_like(drawn, dtype=torch.float32))
    return (right + left) / 2


def generator_loss(drawn: Tensor, output: Tensor, clean: Tensor, weight: float) -> dict[str, Tensor]:
    """Return the parts of a generator's loss: `adversarial`, and `l1` weighted; the loss is their sum.

    Args:
        drawn: the discriminator's logits of the drawn pictures' patches.
        output: `[B,3,H,W]` drawn, in [0,1].
        clean: the same shape, what should have been drawn.
        weight: of L1, which is that of pictures in [−1,1] as in pix2pix; 100 there.

    Source: Isola et al., CVPR 2017, formulas 3 and 4; what is drawn is to look real (the non-saturating loss).
    """
    real = torch.ones_like(drawn, dtype=torch.float32)
    return {
        "adversarial": F.binary_cross_entropy_with_logits(drawn.float(), real),
        "l1": weight * 2 * l1(output, clean),
    }
