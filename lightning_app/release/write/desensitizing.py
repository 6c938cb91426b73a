"""A desensitizer as a release uses it: checked beforehand, and probed with every batch."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_app.core.batch import Batch
from lightning_app.desensitize import OURS, Desensitizer
from lightning_app.desensitize.base import only_hides
from lightning_app.masks import mask_hash
from lightning_app.release.write.keys import check_draws
from lightning_app.release.write.probe import copy_of, under_noise

Picture = NDArray[np.uint8]


class PixelDesensitizer:
    """Desensitize batches of a reader's pixels as `FaceDataModule.desensitized` does, on the CPU.

    Where there is a mask, every batch is probed: with noise under the mask the same images must come. What is
    returned is made of pixels with noise under the mask, see `lightning_app.release.write.probe`. Of a method that
    only hides, all images are the raw ones times the mask, and one image of every batch is probed, drawn anew.
    A method without a mask hides no pixel: there is nothing to probe.

    Args:
        desensitizer: put into `eval()` and prepared.
        size: side of the images in pixels.
        key_file: see `check_draws`.

    Attributes:
        mask: `[1,1,H,W]` float, the one mask that lies on every image; None where the method has none.

    Raises:
        ValueError: it changes nothing, returns no pictures, mixes images or labels, has more than one mask or one that
            it does not describe, draws from a key that is no file, or cannot be copied.
    """

    def __init__(self, desensitizer: Desensitizer, size: int, key_file: bool = True) -> None:
        self._name = type(desensitizer).__name__
        if not desensitizer.hides:
            raise ValueError(
                f"desensitizer: {self._name} changes nothing, the release would be the raw set; give another, such as "
                "lightning_app.desensitize.MaskOut"
            )
        if not desensitizer.is_image or desensitizer.out_channels != 3:
            raise ValueError(
                f"desensitizer: {self._name} returns no pictures: they cannot be released as PNG"
            )
        if desensitizer.mixes > 1:
            raise ValueError(
                f"desensitizer: {self._name} mixes images, which is done in training: a release has no place for mixed "
                "labels, and would hold each face alone; leave the mixing out, or train with it on raw images"
            )
        if desensitizer.masks_each:
            raise ValueError(
                f"desensitizer: {self._name} gives each image a mask of its own, here one is needed for all"
            )
        if why := desensitizer.why_not_released():
            raise ValueError(f"desensitizer: {why}")
        desensitizer.eval()
        desensitizer.to("cpu")
        desensitizer.prepare((size, size))
        check_draws(desensitizer, key_file)
        self.mask = self._find_mask(desensitizer, size)
        self._visible: Picture | None = (
            None  # [1,H,W] of 0 and 1, where multiplying by it is all there is to do
        )
        if self.mask is not None:
            self._hidden = (self.mask == 0).to(torch.uint8) * 255
            if only_hides(desensitizer):
                self._visible = self.mask[0].to(torch.uint8).numpy()
        self._witness = desensitizer  # gets raw pixels; nothing of what it returns is released
        self._desensitizer = desensitizer if self.mask is None else copy_of(desensitizer)

    def __call__(
        self, pixels: Sequence[Picture], labels: Sequence[int], numbers: Sequence[int]
    ) -> list[Picture]:
        """Desensitize a batch.

        Args:
            pixels: B images, uint8 `[1,H,W]` or `[3,H,W]`, as `FaceReader.read` gives them.
            labels: B class indices.
            numbers: B numbers of the images in the reader.

        Returns:
            B images, uint8 `[H,W]` where an image's three channels are equal, else `[H,W,3]`.

        Raises:
            ValueError: what the desensitizer makes visible depends on hidden pixels, or it breaks its contract:
                values outside [0,1], a mask that differs from the other batches', a hidden pixel that is not 0,
                without a mask an image as it was.
        """
        if self._visible is not None:
            return self._multiplied(pixels, self._visible, numbers)
        raw = stack(pixels)
        made = self._made(raw, labels, numbers)
        if self.mask is None:
            self._refuse_raw(raw, made, numbers)
        else:
            self._compare(made, raw, labels, numbers)
        return [as_picture(one) for one in made]

    def _multiplied(
        self, pixels: Sequence[Picture], visible: Picture, numbers: Sequence[int]
    ) -> list[Picture]:
        """Multiply images by the mask; the desensitizer itself must make the same of one with noise under it."""
        hidden = [image * visible for image in pixels]
        one = secrets.randbelow(len(pixels))  # nobody can foresee which
        raw = torch.from_numpy(pixels[one][None].copy())  # of a grey image one channel does
        found = self._run(self._desensitizer, under_noise(raw, self._hidden), None, [numbers[one]])["image"]
        if not np.array_equal((found * 255).round_().to(torch.uint8)[0].numpy(), hidden[one]):
            raise ValueError(
                f"desensitizer: {self._name} does more to image number {numbers[one]} than multiply it by its mask; "
                "nothing of the batch is released"
            )
        return [as_picture(image) for image in hidden]

    def _made(self, raw: Tensor, labels: Sequence[int], numbers: Sequence[int]) -> Picture:
        """Make what is released of raw images `[B,3,H,W]`; hidden pixels are not shown to the desensitizer."""
        given = raw if self.mask is None else under_noise(raw, self._hidden)
        out = self._checked(self._desensitizer, given, labels, numbers)
        if self.mask is not None and bool((out & self._hidden).any()):
            raise ValueError(
                f"desensitizer: {self._name} left something under its mask; nothing of it is released"
            )
        made: Picture = out.numpy()
        return made

    def _compare(self, made: Picture, raw: Tensor, labels: Sequence[int], numbers: Sequence[int]) -> None:
        """Refuse images that come out otherwise of raw pixels than of those with noise under the mask."""
        of_raw = self._checked(self._witness, raw, labels, numbers).numpy()
        if np.array_equal(made, of_raw):
            return
        other = np.flatnonzero((made != of_raw).any(axis=(1, 2, 3))).tolist()
        some = f"{len(other)} of {len(made)} images of a batch (the first number {numbers[other[0]]})"
        again = self._checked(self._witness, raw, labels, numbers).numpy()
        if not np.array_equal(of_raw, again):
            raise ValueError(
                f"desensitizer: {self._name} makes another image each time it is asked, of {some}: it may depend on "
                "what is visible and on `index` alone, not on what it saw before or drew; nothing of the batch "
                "is released"
            )
        raise ValueError(
            f"desensitizer: {self._name} lets hidden pixels reach visible ones: with noise under the mask {some} came "
            "out otherwise; nothing of the batch is released"
        )

    def _refuse_raw(self, raw: Tensor, made: Picture, numbers: Sequence[int]) -> None:
        """Refuse a method without a mask that leaves an image as it was."""
        same = (made == raw.numpy()).all(axis=(1, 2, 3))
        same &= raw.flatten(1).amin(1).ne(raw.flatten(1).amax(1)).numpy()  # of one colour no face is left
        if same.any():
            first = numbers[int(np.argmax(same))]
            raise ValueError(
                f"desensitizer: {self._name} left image number {first} as it was, and has no mask: it would be "
                "released clean; nothing of the batch is released"
            )

    def _checked(
        self, desensitizer: Desensitizer, raw: Tensor, labels: Sequence[int], numbers: Sequence[int]
    ) -> Tensor:
        """Desensitize `[B,3,H,W]` uint8 to the same, held to the contract of a release."""
        found = self._run(desensitizer, raw, labels, numbers)
        image, mask = found["image"], found["mask"]
        if (mask is None) != (self.mask is None) or (
            mask is not None and self.mask is not None and not torch.equal(mask.to(self.mask), self.mask)
        ):
            raise ValueError(
                f"desensitizer: {self._name} changed its mask; a release carries one mask for all images"
            )
        low, high = (float(value) for value in image.aminmax())
        if image.shape != raw.shape or not (low >= 0 and high <= 1):  # false for NaN too
            raise ValueError(
                f"desensitizer: {self._name} returned {list(image.shape)} in {low:.4g} … {high:.4g}, not "
                f"{list(raw.shape)} in 0 … 1"
            )
        return (image * 255).round_().to(torch.uint8)

    @torch.no_grad()
    def _run(
        self, desensitizer: Desensitizer, raw: Tensor, labels: Sequence[int] | None, numbers: Sequence[int]
    ) -> Batch:
        # tensors of their own: whoever writes into them changes nothing here
        batch: Batch = {
            "image": raw.float().div_(255),
            "index": torch.from_numpy(np.array(numbers, np.int64)),
        }
        if labels is not None:
            batch["identity"] = torch.from_numpy(np.array(labels, np.int64))
        found: Batch = desensitizer.forward(batch)
        if labels is not None and found["identity"].tolist() != list(labels):
            raise ValueError(f"desensitizer: {self._name} mixes identities: a release cannot hold that")
        return found

    def _find_mask(self, desensitizer: Desensitizer, size: int) -> Tensor | None:
        """Desensitize two black images of two identities, to see what mask comes."""
        black = torch.zeros(2, 3, size, size, dtype=torch.uint8)
        mask = self._run(desensitizer, black, [0, 1], [0, 1])["mask"]
        if mask is None:
            promised = type(desensitizer).mask_promised_by()
            if promised is not None:
                known = " or ".join(kind.__name__ for kind in OURS.values() if kind.has_mask)
                ours = promised in OURS.values()
                raise ValueError(
                    f"desensitizer: {self._name} is a {known if ours else promised.__name__}, but returns no mask"
                )
            return None
        if len(mask) != 1:
            raise ValueError(
                f"desensitizer: {self._name} has a mask for each image, and a release has one for all, or those of a "
                "LearnedMask: have it return one mask (MaskOut: give `mask`, or `freeform` with count 1)"
            )
        if mask.shape != (1, 1, size, size) or not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(
                f"desensitizer: {self._name} has a mask of shape {list(mask.shape)} in {float(mask.min()):.4g} … "
                f"{float(mask.max()):.4g}; a release needs [1, 1, {size}, {size}] of 0 (hidden) and 1 (visible)"
            )
        if mask.min() == mask.max():
            what = "nothing" if bool(mask.all()) else "everything"
            raise ValueError(f"desensitizer: the mask of {self._name} hides {what}; give another mask")
        mask = mask.to(torch.float32).clone()  # whoever writes into its own later does not change this one
        described = desensitizer.describe().get("mask_hash")
        if described is not None and described != mask_hash(mask[0]):
            raise ValueError(
                f"desensitizer: {self._name} describes another mask than it returns; a release shows the one it has"
            )
        return mask


def stack(pixels: Sequence[Picture]) -> Tensor:
    """Put images into one tensor, `[B,3,H,W]` uint8.

    Args:
        pixels: B images, uint8 `[1,H,W]` or `[3,H,W]`.
    """
    raw = np.empty((len(pixels), 3, *pixels[0].shape[-2:]), np.uint8)
    for row, source in zip(raw, pixels, strict=True):
        row[:] = source  # one grey channel broadcasts to three
    return torch.from_numpy(raw)


def as_picture(image: Picture) -> Picture:
    """Convert `[1,H,W]` or `[3,H,W]` to `[H,W]` where it is grey, to `[H,W,3]` where it is not.

    Args:
        image: uint8.
    """
    if len(image) == 1 or (np.array_equal(image[0], image[1]) and np.array_equal(image[0], image[2])):
        grey: Picture = image[0]
        return grey
    return np.ascontiguousarray(image.transpose(1, 2, 0))
