"""What every way of seeing through a veil looks like from outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn


class Attack(nn.Module):
    """Guess the clean images from desensitized ones; the base class knows how not to touch what is visible.

    A subclass overrides `_restore` and returns whole pictures; `restore` puts the visible pixels back, so that
    no attack can change one.

    Attributes:
        needs_mask: whether it can work only where a mask tells what is hidden.
    """

    needs_mask: bool = False

    @final
    @torch.no_grad()
    def restore(
        self, desensitized: Tensor, mask: Tensor | None = None, mask_index: Tensor | None = None
    ) -> Tensor:
        """Restore images as well as this attack can.

        Args:
            desensitized: `[B,3,H,W]` float in [0,1].
            mask: `[M,1,H,W]` of 0 (hidden) and 1 (visible); None where nothing is hidden, as for blur.
            mask_index: `[B]` int64, which of the M masks lies on each image; may be None where M is 1 or B.

        Returns:
            `[B,3,H,W]` in [0,1], of the same dtype. Where the mask is 1 it equals `desensitized` bit for bit.

        Raises:
            ValueError: the attack needs a mask and none is given, or shapes and values are not as above.
        """
        _check(desensitized, mask, mask_index)
        if mask is None:
            if self.needs_mask:
                raise ValueError(
                    f"mask: None, but {type(self).__name__} fills in what a mask hides; give the mask, or take "
                    "an attack that needs none (TrainedRestorer, trained on these images)"
                )
            if len(desensitized) == 0:
                return desensitized.clone()
            return self._restore(desensitized, None, None).to(desensitized).clamp(0, 1)
        mask = mask.to(desensitized)
        if len(desensitized) == 0:
            return desensitized.clone()
        if mask_index is None:
            mask_index = torch.arange(len(desensitized), device=mask.device) % len(mask)
        restored = self._restore(desensitized, mask, mask_index).to(desensitized).clamp(0, 1)
        return keep_visible(restored, desensitized, mask.index_select(0, mask_index))

    def _restore(self, desensitized: Tensor, mask: Tensor | None, mask_index: Tensor | None) -> Tensor:
        """Guess whole pictures; what is returned under a visible pixel does not count.

        Args:
            desensitized: `[B,3,H,W]` float in [0,1], B ≥ 1.
            mask: `[M,1,H,W]` of 0 and 1 in the images' dtype, or None.
            mask_index: `[B]` int64 where there is a mask.

        Returns:
            `[B,3,H,W]` float; the caller clamps it to [0,1].
        """
        raise NotImplementedError(f"{type(self).__name__} does not override _restore")

    def people(self) -> Sequence[str]:
        """Return the identities it has learnt from; empty where there are none, or where it does not know them."""
        return ()

    def describe(self) -> dict[str, object]:
        """Return what goes into tables and reports: JSON-able, the attack's name first, no face, no path."""
        return {"attack": type(self).__name__}


def keep_visible(restored: Tensor, desensitized: Tensor, mask: Tensor) -> Tensor:
    """Return the restored images where the mask `[B or 1,1,H,W]` is 0 and the desensitized ones where it is 1."""
    return torch.where(mask == 1, desensitized, restored)


def _check(images: Tensor, mask: Tensor | None, mask_index: Tensor | None) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(
            f"desensitized: {images.dtype} {list(images.shape)}; give float [B, 3, H, W] in [0,1] (an attack "
            "restores pictures)"
        )
    if images.numel():
        low, high = torch.stack(torch.aminmax(images)).tolist()
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise ValueError(f"desensitized: values from {low:g} to {high:g}; give pixels in [0,1]")
    if mask is None:
        return
    if mask.ndim != 4 or tuple(mask.shape[1:]) != (1, *images.shape[2:]) or len(mask) == 0:
        raise ValueError(
            f"mask: {list(mask.shape)}; give [M, 1, {images.shape[2]}, {images.shape[3]}], the images' size"
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("mask: has values other than 0 (hidden) and 1 (visible)")
    if mask_index is None and len(mask) not in (1, len(images)):
        raise ValueError(
            f"mask_index: None, but there are {len(mask)} masks for {len(images)} images; say which lies on which"
        )
    if mask_index is not None and mask_index.shape != (len(images),):
        raise ValueError(f"mask_index: {list(mask_index.shape)}; give one number per image, [{len(images)}]")
