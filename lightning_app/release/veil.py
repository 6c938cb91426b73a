"""A desensitizer as a release uses it: checked beforehand, and distrusted afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_app.batch import Batch
from lightning_app.desensitize import CentreBlock, Desensitizer, MaskOut

Picture = NDArray[np.uint8]
# they multiply by their mask and do nothing else: on integers that comes to the same bits, a tenth of the time;
# what is made of them may do more
_ONLY_HIDE = (MaskOut, CentreBlock)


class Veil:
    """Veil batches of a reader's pixels as `FaceDataModule.veiled` does, on the CPU.

    Args:
        desensitizer: put into `eval()` and prepared.
        size: side of the images in pixels.

    Attributes:
        mask: `[1,1,H,W]` float, the one mask that lies on every image; None where the method has none.

    Raises:
        ValueError: it veils nothing, returns no pictures, mixes labels, or has more than one mask.
    """

    def __init__(self, desensitizer: Desensitizer, size: int) -> None:
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
        self._desensitizer = desensitizer.eval().to("cpu")
        self._desensitizer.prepare((size, size))
        self.mask: Tensor | None = None
        self._hidden: Tensor | None = None  # [1,1,H,W] uint8, 255 where hidden
        self._visible: Picture | None = None  # [1,H,W] of 0 and 1
        self.mask = self._probe(size)
        if self.mask is not None:
            self._hidden = (self.mask == 0).to(torch.uint8) * 255
            if type(desensitizer) in _ONLY_HIDE:
                self._visible = self.mask[0].to(torch.uint8).numpy()

    def __call__(
        self, pixels: Sequence[Picture], labels: Sequence[int], numbers: Sequence[int]
    ) -> list[Picture]:
        """Veil a batch.

        Args:
            pixels: B images, uint8 `[1,H,W]` or `[3,H,W]`, as `FaceReader.read` gives them.
            labels: B class indices.
            numbers: B numbers of the images in the reader.

        Returns:
            B images, uint8 `[H,W]` where an image's three channels are equal, else `[H,W,3]`.

        Raises:
            ValueError: the desensitizer breaks its contract: values outside [0,1], a mask that differs from
                the other batches', or a hidden pixel that is not 0.
        """
        if self._visible is not None:
            return [_picture(image * self._visible) for image in pixels]
        raw = np.empty((len(pixels), 3, *pixels[0].shape[-2:]), np.uint8)
        for row, source in zip(raw, pixels, strict=True):
            row[:] = source  # one grey channel broadcasts to three
        veiled = self._veiled(torch.from_numpy(raw), labels, numbers)
        image, mask = veiled["image"], veiled["mask"]
        if mask is not self.mask and not (
            mask is not None and self.mask is not None and torch.equal(mask, self.mask)
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
        out = (image * 255).round_().to(torch.uint8)
        if self._hidden is not None and bool((out & self._hidden).any()):
            raise ValueError(
                f"desensitizer: {self._name} left something under its mask; nothing of it is released"
            )
        return [_picture(one.numpy()) for one in out]

    @torch.no_grad()
    def _veiled(self, raw: Tensor, labels: Sequence[int], numbers: Sequence[int]) -> Batch:
        batch: Batch = {
            "image": raw.float().div_(255),
            "identity": torch.tensor(labels, dtype=torch.int64),
            "index": torch.tensor(numbers, dtype=torch.int64),
        }
        veiled: Batch = self._desensitizer.forward(batch.copy())
        if veiled["identity"] is not batch["identity"] and not torch.equal(
            veiled["identity"], batch["identity"]
        ):
            raise ValueError(f"desensitizer: {self._name} mixes identities: a release cannot hold that")
        return veiled

    def _probe(self, size: int) -> Tensor | None:
        """Veil two black images of two identities, to see what mask comes."""
        black = torch.zeros(2, 3, size, size, dtype=torch.uint8)
        mask = self._veiled(black, [0, 1], [0, 1])["mask"]
        if mask is not None and len(mask) != 1:
            raise ValueError(
                f"desensitizer: {self._name} draws a mask per image, a release carries one mask for all: give `mask`, "
                "or `freeform` with count 1"
            )
        return mask


def _picture(image: Picture) -> Picture:
    """Bring `[1,H,W]` or `[3,H,W]` to `[H,W]` where it is grey, to `[H,W,3]` where it is not."""
    if len(image) == 1 or (np.array_equal(image[0], image[1]) and np.array_equal(image[0], image[2])):
        grey: Picture = image[0]
        return grey
    return np.ascontiguousarray(image.transpose(1, 2, 0))
