"""A desensitizer that gives each image a mask of its own, as a release uses it: probed with every image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_app.core.batch import Batch
from lightning_app.desensitize import OURS, Desensitizer, MaskEach
from lightning_app.desensitize.mask_kinds import MASK_KINDS
from lightning_app.masks.learned import shown_pixels
from lightning_app.release.write.desensitizing import Picture, as_picture, stack
from lightning_app.release.write.keys import check_draws
from lightning_app.release.write.probe import copy_of, under_noise


class Masked(NamedTuple):
    """What becomes of an image.

    Attributes:
        picture: uint8 `[H,W]` where its three channels are equal, else `[H,W,3]`; hidden pixels are 0.
        mask: uint8 `[H,W]`, 1 = visible.
    """

    picture: Picture
    mask: NDArray[np.uint8]


class Remade(NamedTuple):
    """What a desensitizer makes of a batch.

    Attributes:
        image: uint8 `[B,3,H,W]`.
        mask: uint8 `[B,1,H,W]`, 1 = visible.
        which: `[B]` int64, number of the public mask of each, of kind `codebook`; else 0 … B − 1.
    """

    image: Tensor
    mask: Tensor
    which: Tensor


def _check_explained(desensitizer: Desensitizer) -> None:
    """Refuse a class of whose masks nobody could say what they are functions of."""
    kind, name = type(desensitizer), type(desensitizer).__name__
    # an object may take back what its class promises, never add to it
    explains = vars(kind).get("explains_masks") is True and desensitizer.explains_masks is True
    if not explains or not isinstance(desensitizer, MaskEach):
        raise ValueError(
            f"desensitizer: {name} gives each image a mask of its own and does not promise to explain its masks: "
            "nobody could say what they are functions of, so no release can be made of it"
        )
    if OURS.get(name) is not kind:
        raise ValueError(
            f"desensitizer: {name} gives each image a mask of its own, and a release describes such masks of "
            "FaceVeil's own classes alone: an audit could not tell what those of another class are functions of"
        )


class EachDesensitizer:
    """Desensitize batches of a reader's pixels under masks of their own, on the CPU.

    What is released is the image with noise in place of what its mask hides, times its mask: no hidden pixel is in it.
    Of a mask that promises to be a function of what it shows (`core_first`) more is asked: of the image with noise
    under its mask the very same mask must come. Of `codebook` the mask tells which of the public ones it is; of `free`
    it may tell anything, and that must be asked for.

    Args:
        desensitizer: put into `eval()` and prepared.
        size: side of the images in pixels.
        accept_interference: also take a desensitizer whose masks are made of what they hide, without any bound.
        key_file: see `check_draws`.

    Attributes:
        shown: visible pixels of every image.
        codes: `[C,1,H,W]` float, the public masks of `codebook`; None of the others.

    Raises:
        ValueError: of these no release can be made; the message says why and what to do.
    """

    def __init__(
        self, desensitizer: Desensitizer, size: int, accept_interference: bool = False, key_file: bool = True
    ) -> None:
        self._name = type(desensitizer).__name__
        _check_explained(desensitizer)
        assert isinstance(desensitizer, MaskEach)
        if why := desensitizer.why_not_released():
            raise ValueError(f"desensitizer: {why}")
        if desensitizer.interference and not accept_interference:
            raise ValueError(
                f"desensitizer: {desensitizer.interference}, and may be a drawing of it; take kind population, "
                "core_first or codebook, or say --accept-interference: the release is then marked, and so is the first "
                "line of its audit"
            )
        if accept_interference and not desensitizer.interference:
            raise ValueError(
                f"accept_interference: true, but kind {desensitizer.kind} is bounded; leave it out"
            )
        desensitizer.eval()
        desensitizer.to("cpu")
        desensitizer.prepare((size, size))
        check_draws(desensitizer, key_file)
        self.kind = desensitizer.kind
        self.shown = shown_pixels(desensitizer.share, size)
        self.codes = None if desensitizer.mask is None else desensitizer.mask.to(torch.float32).clone()
        self.desensitizer = desensitizer  # gets raw pixels; of what it returns the mask alone is released
        self._blind = copy_of(desensitizer) if self.promises else None  # never gets a hidden pixel

    @property
    def promises(self) -> bool:
        """Whether a mask promises to be a function of what it shows."""
        return MASK_KINDS[self.kind].looks_at_shown

    def __call__(
        self, pixels: Sequence[Picture], labels: Sequence[int], numbers: Sequence[int]
    ) -> list[Masked]:
        """Desensitize a batch.

        Args:
            pixels: B images, uint8 `[1,H,W]` or `[3,H,W]`, as `FaceReader.read` gives them.
            labels: B class indices; nothing depends on them.
            numbers: B numbers of the images in the reader.

        Raises:
            ValueError: a mask depends on what it hides though it promises not to, shows another number of pixels, is
                none of the codebook, or an image is not the raw one times its mask; nothing of the batch is released.
        """
        raw = stack(pixels)
        made = self.remade(raw, numbers)
        hidden = (1 - made.mask) * 255
        noise = under_noise(raw, hidden)
        if self._blind is not None:
            again = self.remade(noise, numbers, self._blind)
            if other := (again.mask != made.mask).flatten(1).any(1).nonzero().flatten().tolist():
                raise ValueError(
                    f"desensitizer: {self._name} lets hidden pixels reach masks: with noise under its mask "
                    f"{len(other)} of {len(raw)} images of a batch (the first number {numbers[other[0]]}) got another; "
                    "nothing of the batch is released"
                )
            out = again.image
        else:
            out = noise * made.mask
        if not torch.equal(out, made.image) or bool((out & hidden).any()):
            raise ValueError(
                f"desensitizer: {self._name} does more to images than multiply them by their masks; nothing of the "
                "batch is released"
            )
        masks = made.mask[:, 0].numpy()
        return [Masked(as_picture(image), mask) for image, mask in zip(out.numpy(), masks, strict=True)]

    @torch.no_grad()
    def remade(self, raw: Tensor, numbers: Sequence[int], by: Desensitizer | None = None) -> Remade:
        """Make of raw images what the desensitizer makes of them, held to the contract of a release.

        Args:
            raw: uint8 `[B,3,H,W]`.
            numbers: B numbers of the images in the reader.
            by: another one than its own.

        Raises:
            ValueError: a mask shows another number of pixels, or is none of the codebook.
        """
        batch: Batch = {
            "image": raw.float().div_(255),
            "index": torch.from_numpy(np.array(numbers, np.int64)),
        }
        found = (by or self.desensitizer).forward(batch)
        mask, which = found["mask"], found["mask_index"]
        assert mask is not None
        if self.codes is not None and not torch.equal(mask.to(self.codes), self.codes):
            raise ValueError(
                f"desensitizer: {self._name} changed its public masks; nothing of the batch is released"
            )
        each = mask.index_select(0, which)
        values = each.to(torch.uint8)
        if not torch.equal(values.to(each), each) or values.shape != (len(raw), 1, *raw.shape[2:]):
            raise ValueError(
                f"desensitizer: {self._name} has masks that are none of 0 and 1; nothing is released"
            )
        shown = values.flatten(1).sum(1, dtype=torch.int64)
        if bool((shown != self.shown).any()):
            raise ValueError(
                f"desensitizer: {self._name} shows {shown.unique().tolist()[:3]} pixels of images, not {self.shown}; "
                "nothing of the batch is released"
            )
        return Remade((found["image"] * 255).round_().to(torch.uint8), values, which)
