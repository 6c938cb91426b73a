"""Mixes taken apart where labels and coefficients travel with them, and signs where they are all that is drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_app.attacks.base import Attack
from lightning_app.core.batch import Batch
from lightning_app.desensitize import Desensitizer

_LEAST = 1e-6  # singular values below this share of the largest are taken for none
_NEAR = 0.2  # weight of the mixes themselves, where labels do not tell which images are in them
_GREY = 0.5  # the mean of pixels in [0,1]


class UnMix(Attack):
    """Solve for the faces of a batch of mixes, whose labels and coefficients came with it.

    A trainer needs both for the loss. Every mix names the people in it, its own first, and how much of each; every
    image of the batch is the first of one mix. So B mixes are B linear equations for B images. Where each person has
    one image in the batch all of it is known, and the faces come out exactly, up to rounding; a person with several
    has each of them stand for an equal part, the solution is kept near the mixes, and little is gained.

    It stops at `InstaHide`: with a sign drawn for every pixel any choice of signs has a solution. What the literature
    does then (Carlini et al. 2021) needs many mixes of one image, as `redraw: epoch` gives, or a network that
    recognises two mixes of one face; see `AbsoluteValues` for its first step. It stops too where coefficients do not
    travel, as in a release of mixes that are labelled one by one.

    Source: Carlini et al., "Is private learning possible with instance encoding?", IEEE S&P 2021, for the setting.
    """

    needs_image = False

    def __init__(self) -> None:
        super().__init__()
        self._method: list[Desensitizer] = []

    def against(self, method: Desensitizer) -> UnMix | None:
        """Return the attack on one method; None where it does not mix, or flips signs too."""
        if method.mixes < 2 or method.flips_signs:
            return None
        made = UnMix()
        made._method = [method]
        return made

    def guess(self, released: Batch) -> Tensor:
        """Solve for the images, and look at them as the method shows what it does not mix."""
        image = self.solved(released)
        return self._method[0].look(image) if self._method else image

    def solved(self, released: Batch) -> Tensor:
        """Solve for what was mixed.

        Args:
            released: `image [B,C,h,w]` of mixes, `target [B,k]` and `weight [B,k]`; without the last two, images that
                were not mixed.

        Returns:
            `[B,C,h,w]` float32.
        """
        image = released["image"].float()
        target, weight = released.get("target"), released.get("weight")
        if target is None or weight is None or target.ndim < 2:
            return image
        mixing = mixing_matrix(target, weight)
        mixes = image.flatten(1).double()
        if len(target[:, 0].unique()) == len(target):
            solved: Tensor = torch.linalg.pinv(mixing, rtol=_LEAST) @ mixes
        else:  # the equations are not quite the true ones: stay near the mixes, or errors grow
            near = _NEAR * torch.eye(len(mixing), dtype=torch.float64, device=mixing.device)
            solved = torch.linalg.solve(mixing.T @ mixing + near, mixing.T @ mixes + _NEAR * mixes)
        return solved.float().view_as(image)


def mixing_matrix(target: Tensor, weight: Tensor) -> Tensor:
    """Return what a batch's mixes are made of, as far as labels tell.

    Args:
        target: `[B,k]` int64, who is in each mix; the mix's own image first, which is that of its row.
        weight: `[B,k]`, how much of each.

    Returns:
        `[B,B]` float64: rows are mixes, columns images. Of a person with several images in the batch each stands for
        an equal part, but the mix's own.
    """
    own = target[:, 0]
    who = (target[:, :, None] == own[None, None, :]).double()  # [mix, place, image]
    rows = torch.arange(len(own), device=own.device)
    who[rows, :, rows] = 0  # nobody is twice in a mix
    who[rows, 0] = 0
    who[rows, 0, rows] = 1
    share = who / who.sum(2, keepdim=True).clamp(min=1)
    return (share * weight.double()[:, :, None]).sum(1)


class AbsoluteValues(Attack):
    """Take the absolute value of what had its signs flipped at random: the first step against `InstaHide`.

    A sign drawn for every pixel hides the sign of the mix and nothing else: |pixel − mean| is that of the mix. What
    is seen is a mix's contrast without its sign. A network trained on the method itself (`UNetRestorer`, `Linker`)
    finds this step alone.

    Args:
        mean: what signs were flipped around: 0.5 of pixels.

    Source: Carlini et al. 2021, section 4.
    """

    needs_image = False

    def __init__(self, mean: float = _GREY) -> None:
        super().__init__()
        if not 0 <= mean <= 1:
            raise ValueError(f"mean: {mean}; give a pixel's value from 0 to 1")
        self.mean = mean

    def against(self, method: Desensitizer) -> AbsoluteValues | None:
        """Return the attack, where signs of pixels are flipped; None elsewhere."""
        pictures = all(step.is_image or step.flips_signs for step in method.in_order)
        return self if pictures and method.flips_signs else None

    def guess(self, released: Batch) -> Tensor:
        """Return mean + |pixel − mean|, scaled to reach from black to white."""
        away = (released["image"].float() - self.mean).abs()
        return away / max(self.mean, 1 - self.mean)

    def describe(self) -> dict[str, object]:
        """Return the attack and the mean."""
        return super().describe() | {"mean": self.mean}
