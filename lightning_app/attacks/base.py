"""What every way of seeing through a desensitizer looks like from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from lightning_app.core.batch import Batch

if TYPE_CHECKING:
    from datamodules.readers.base import FaceReader
    from lightning_app.desensitize import Desensitizer

_AT_A_TIME = 32  # images read
# what attacks overrode before they took the batch, and the method that puts the visible pixels back
_OLD = ("restore", "_restore")


class Attack(nn.Module):
    """Guess the clean images from what was released; the base class knows how not to touch what is visible.

    A subclass overrides `guess` and returns whole pictures; `restore` puts the visible pixels back, so that no
    attack can change one.

    Attributes:
        needs_mask: whether it can work only where a mask tells what is hidden.
        needs_image: whether it can work only on pictures. False: `guess` gets representations too, of any number of
            channels and any values, and nothing is put back: what is visible of one is for the attack to know.
    """

    needs_mask: bool = False
    needs_image: bool = True

    def __init__(self) -> None:
        super().__init__()
        for kind in type(self).__mro__[: type(self).__mro__.index(Attack)]:
            old = next((name for name in _OLD if name in vars(kind)), None)
            if old is not None:
                raise ValueError(
                    f"{type(self).__module__}.{type(self).__name__}: overrides {old}; an attack overrides "
                    "guess(released), which takes the released batch (image, mask, mask_index) and returns pictures "
                    "[B,3,H,W]"
                )

    @final
    @torch.no_grad()
    def restore(self, released: Batch) -> Tensor:
        """Restore images as well as this attack can.

        Args:
            released: what the method hands out: `image` `[B,3,H,W]` float in [0,1] (a representation `[B,C,h,w]` where
                `needs_image` is False); `mask` `[M,1,H,W]` of 0 (hidden) and 1 (visible), None or left out where
                nothing is hidden, as for blur; `mask_index` `[B]` int64, which of the M masks lies on each image, may
                be left out where M is 1 or B; other entries are passed on to `guess`.

        Returns:
            `[B,3,H,W]` in [0,1], of the same dtype. Where the mask is 1 it equals a released picture bit for bit.

        Raises:
            ValueError: the attack needs a mask and none is given, or shapes and values are not as above.
        """
        if not isinstance(released, Mapping):
            raise ValueError(
                f"restore: got {type(released).__name__}; it takes the released batch, a dict of image, mask and "
                "mask_index"
            )
        image, mask, mask_index = released["image"], released.get("mask"), released.get("mask_index")
        _check(image, mask, mask_index, self.needs_image)
        if mask is None and self.needs_mask:
            raise ValueError(
                f"mask: None, but {type(self).__name__} fills in what a mask hides; give the mask, or take "
                "an attack that needs none (TrainedRestorer, trained on these images)"
            )
        if len(image) == 0:
            return image.clone() if self.needs_image else image.new_zeros(0, 3, *image.shape[2:])
        if mask is not None:
            mask = mask.to(image)
            if mask_index is None:
                mask_index = torch.arange(len(image), device=mask.device) % len(mask)
        whole = released.copy()
        whole["mask"] = mask
        whole["mask_index"] = (
            mask_index
            if mask is not None and mask_index is not None
            else torch.zeros(len(image), dtype=torch.int64, device=image.device)
        )
        guess = self.guess(whole)
        wanted = (len(image), 3, *(image.shape[2:] if self.needs_image else guess.shape[2:]))
        if guess.ndim != 4 or tuple(guess.shape) != wanted:
            raise ValueError(
                f"{type(self).__name__}: guess returned {list(guess.shape)}, not pictures {list(wanted)}"
            )
        restored = guess.to(image).clamp(0, 1)
        if mask is None or not self.needs_image:
            return restored
        return keep_visible(restored, image, mask.index_select(0, whole["mask_index"]))

    def guess(self, released: Batch) -> Tensor:
        """Guess whole pictures; what is returned under a visible pixel does not count.

        Args:
            released: as `restore` takes it, checked, B ≥ 1: `mask` in the images' dtype or None, `mask_index` `[B]`
                int64, zeros where there is no mask.

        Returns:
            `[B,3,H,W]` float; the caller clamps it to [0,1].
        """
        raise NotImplementedError(f"{type(self).__name__} does not override guess")

    def against(self, method: Desensitizer) -> Attack | None:
        """Return the attack as it is mounted on one method; by default itself.

        Args:
            method: how images were desensitized, prepared. Whoever attacks may use it on other people's faces.

        Returns:
            The attack, or one of its kind that belongs to this method; None where it has nothing to do there.
        """
        return self

    def readers(self) -> list[FaceReader]:
        """Return the sets it learns from; by default those of the attacks it consists of."""
        return [
            reader for child in self.children() if isinstance(child, Attack) for reader in child.readers()
        ]

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints it is made of; by default those of the attacks it consists of."""
        return [
            path for child in self.children() if isinstance(child, Attack) for path in child.checkpoints()
        ]

    def people(self) -> Sequence[str]:
        """Return the identities it has learnt from; empty where there are none, or where it does not know them."""
        return list(dict.fromkeys(name for reader in self.readers() for name in reader.identities))

    def describe(self) -> dict[str, object]:
        """Return what goes into tables and reports: JSON-able, the attack's name first, no face, no path."""
        return {"attack": type(self).__name__}


def faces_of(reader: FaceReader | None, images: int, who: str) -> Tensor:
    """Read faces to learn from, spread evenly over a set.

    Args:
        reader: clean faces.
        images: how many; fewer where there are fewer.
        who: what learns from them, for the message.

    Returns:
        `[N,3,H,W]` float32 in [0,1].

    Raises:
        ValueError: there is no reader.
    """
    if reader is None:
        raise ValueError(
            f"reader: {who} has no faces to learn from; give clean faces of people who are not attacked"
        )
    count = len(reader)
    chosen = torch.linspace(0, count - 1, min(images, count), dtype=torch.float64).round().long()
    read = [reader.__getitems__(part.tolist())["image"] for part in chosen.split(_AT_A_TIME)]
    faces = torch.cat(read).float() / 255
    return faces.expand(-1, 3, -1, -1) if faces.shape[1] == 1 else faces


def keep_visible(restored: Tensor, desensitized: Tensor, mask: Tensor) -> Tensor:
    """Return the restored images where the mask `[B or 1,1,H,W]` is 0 and the desensitized ones where it is 1."""
    return torch.where(mask == 1, desensitized, restored)


def _check(images: Tensor, mask: Tensor | None, mask_index: Tensor | None, pictures: bool) -> None:
    channels = images.shape[1:2] == (3,) if pictures else True
    if images.ndim != 4 or not channels or not images.is_floating_point():
        wanted = "[B, 3, H, W] in [0,1] (an attack restores pictures)" if pictures else "[B, C, h, w]"
        raise ValueError(f"desensitized: {images.dtype} {list(images.shape)}; give float {wanted}")
    if pictures and images.numel():
        low, high = torch.stack(torch.aminmax(images)).tolist()
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise ValueError(f"desensitized: values from {low:g} to {high:g}; give pixels in [0,1]")
    if mask is None:
        return
    # a mask speaks of pixels of the raw images, of which a representation may have another number
    fits = mask.ndim == 4 and mask.shape[1] == 1 and (not pictures or mask.shape[2:] == images.shape[2:])
    if not fits or len(mask) == 0:
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
