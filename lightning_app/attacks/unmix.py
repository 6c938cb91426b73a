"""Mixes taken apart where labels and coefficients travel with them, and signs where they are all that is drawn."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lightning_app.attacks.base import Attack
from lightning_app.attacks.trained import TrainedRestorer
from lightning_app.core.batch import Batch
from lightning_app.desensitize import Desensitizer

_LEAST = 1e-6  # singular values below this share of the largest are taken for none
_NEAR = 0.2  # weight of the mixes themselves, where labels do not tell which images are in them
_KNOWN = 1e4  # weight of an equation that is true, beside 1 of one that may not be
_GREY = 0.5  # the mean of pixels in [0,1]


class UnMix(Attack):
    """Solve for the faces of a batch of mixes, whose labels and coefficients came with it.

    A trainer needs both for the loss. Every mix names the people in it, its own first, and how much of each; every
    image of the batch is the first of one mix. So B mixes are B linear equations for B images. Where each person has
    one image in the batch all of it is known, and the faces come out exactly, up to rounding. Which image of a person
    with several is in a mix, labels do not tell: each of them stands for an equal part, such a mix counts little
    beside those that are known, and the solution is kept near the mixes.

    It stops at `InstaHide`: with a sign drawn for every pixel any choice of signs has a solution. What the literature
    does then (Carlini et al. 2021) needs many mixes of one image, as `redraw: epoch` gives, or a network that
    recognises two mixes of one face; see `AbsoluteValues` for its first step. It stops too where coefficients do not
    travel, as in a release of mixes that are labelled one by one.

    Args:
        then: checkpoint of a restorer that was trained on the method without its mixing, and goes on from what was
            solved; it is mounted on that method alone. By default what was solved is looked at.

    Raises:
        FileNotFoundError, ValueError: the checkpoint cannot be used; the message says why.

    Source: Carlini et al., "Is private learning possible with instance encoding?", IEEE S&P 2021, for the setting.
    """

    needs_image = False

    def __init__(self, then: Path | None = None) -> None:
        super().__init__()
        self._method: list[Desensitizer] = []
        self.then = None if then is None else TrainedRestorer(then)

    def against(self, method: Desensitizer) -> UnMix | None:
        """Return the attack on one method; None where it does not mix, or flips signs too.

        Nor is it mounted where the restorer that goes on was trained on something else than what is mixed there.
        """
        if method.mixes < 2 or method.flips_signs:
            return None
        if self.then is not None and self.then.restorer.desensitizer != type(method).for_one(
            method.describe()
        ):
            return None
        made = UnMix()
        made._method, made.then = [method], self.then
        return made

    def guess(self, released: Batch) -> Tensor:
        """Solve for the images, and look at them as the method shows what it does not mix, or restore them."""
        image = self.solved(released)
        if self.then is not None:
            return self.then.guess({**released, "image": image})
        return self._method[0].look(image) if self._method else image

    def describe(self) -> dict[str, object]:
        """Return the attack, and the restorer that goes on where there is one."""
        return super().describe() | ({} if self.then is None else {"then": self.then.describe()})

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
        known = equations_known(target)
        if bool(known.all()):
            solved: Tensor = torch.linalg.pinv(mixing, rtol=_LEAST) @ mixes
        else:  # some equations are not quite the true ones: stay near the mixes, or errors grow
            near = _NEAR * torch.eye(len(mixing), dtype=torch.float64, device=mixing.device)
            weighted = mixing.T * (1 + (_KNOWN - 1) * known.double())
            solved = torch.linalg.solve(weighted @ mixing + near, weighted @ mixes + _NEAR * mixes)
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
    who = _who_may_be(target)
    share = who / who.sum(2, keepdim=True).clamp(min=1)
    return (share * weight.double()[:, :, None]).sum(1)


def equations_known(target: Tensor) -> Tensor:
    """Return of which mixes labels tell every image: `[B]` bool.

    Args:
        target: as for `mixing_matrix`.
    """
    return (_who_may_be(target).sum(2) == 1).all(1)


def _who_may_be(target: Tensor) -> Tensor:
    """Return which images may be in each place of each mix: `[mix, place, image]` float64 of 0 and 1."""
    own = target[:, 0]
    who = (target[:, :, None] == own[None, None, :]).double()
    rows = torch.arange(len(own), device=own.device)
    who[rows, :, rows] = 0  # nobody is twice in a mix
    who[rows, 0] = 0
    who[rows, 0, rows] = 1
    return who


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
