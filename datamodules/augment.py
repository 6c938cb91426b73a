"""Augmentation of a whole batch, masks included, as a function of (seed, epoch, index)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.draws import integers, uniform

_FLIP, _ANGLE, _SCALE, _SHIFT_X, _SHIFT_Y, _LIGHT, _CONTRAST, _CROP_X, _CROP_Y = range(
    101, 110
)  # salts: one number per kind of draw


class Augment(nn.Module):
    """Flip, and where asked crop, turn, scale, shift and relight images; the mask moves with its image.

    Pixels that move in from outside are hidden (black, mask 0). `crop` moves whole pixels, which keep their values.
    `rotate`, `scale` and `shift` interpolate images bilinearly, masks by the nearest pixel, and hide the image again
    under the moved mask. `light` and `contrast` change visible pixels alone: hidden ones stay exactly 0. Clean faces
    in the batch (`keep_clean`) are moved and relit by the same draws.

    Args:
        flip: share of images mirrored left to right, 0 … 1.
        rotate: largest turn in degrees, either way.
        scale: largest relative change of size, for example 0.1 for 0.9 … 1.1.
        shift: largest shift as a share of the width, either way.
        light: largest relative change of brightness, for example 0.2.
        contrast: largest relative change of contrast, about the mean of an image's visible pixels, for example 0.2.
        crop: border in whole pixels that is put around an image before a piece of its size is cut out at random,
            for example 4: a shift by so many pixels at most, either way.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        flip: float = 0.5,
        rotate: float = 0.0,
        scale: float = 0.0,
        shift: float = 0.0,
        light: float = 0.0,
        contrast: float = 0.0,
        crop: int = 0,
    ) -> None:
        super().__init__()
        for name, value, most in (
            ("flip", flip, 1), ("rotate", rotate, 180), ("scale", scale, 0.9), ("shift", shift, 1), ("light", light, 1),
            ("contrast", contrast, 1),
        ):  # fmt: skip
            if not 0 <= value <= most:
                raise ValueError(f"augment.{name}={value}: give a number from 0 to {most}")
        if crop < 0:
            raise ValueError(f"augment.crop={crop}: give a number of pixels, 0 or more")
        self.flip, self.rotate, self.scale, self.shift, self.light = flip, rotate, scale, shift, light
        self.contrast, self.crop = contrast, crop

    @property
    def only_flips(self) -> bool:
        """Whether it makes nothing of an image but its mirror image."""
        return not any((self.rotate, self.scale, self.shift, self.light, self.contrast, self.crop))

    def forward(self, batch: Batch, draw_key: DrawKey) -> Batch:
        """Augment a desensitized batch.

        Args:
            batch: `image [B,C,H,W]` float in [0,1], `mask [M,1,H,W]` or None, `mask_index [B]`, `index [B]`.
            draw_key: seed and epoch the draws are a function of.

        Returns:
            A new dict. One shared mask becomes two (as it is, mirrored) where images are flipped, and one per
            image where they are cropped, turned, scaled or shifted.
        """
        out, key = batch.copy(), (draw_key.seed, draw_key.epoch)
        index = batch["index"]
        if self.light > 0:
            gain = 1 + self.light * (2 * uniform(index, _LIGHT, *key) - 1)
            out["image"] = (out["image"] * gain.view(-1, 1, 1, 1)).clamp(0, 1)
            if "clean" in out:
                out["clean"] = (out["clean"] * gain.view(-1, 1, 1, 1)).clamp(0, 1)
        if self.contrast > 0:
            out = _contrasted(out, 1 + self.contrast * (2 * uniform(index, _CONTRAST, *key) - 1))
        if self.flip > 0:
            out = _flipped(out, uniform(index, _FLIP, *key) < self.flip)
        if self.crop > 0:
            places = 2 * self.crop + 1
            out = _cropped(
                out, *(integers(index, places, salt, *key) - self.crop for salt in (_CROP_Y, _CROP_X))
            )
        if self.rotate or self.scale or self.shift:

            def signed(salt: int) -> Tensor:
                return 2 * uniform(index, salt, *key) - 1

            angle = signed(_ANGLE) * math.radians(self.rotate)
            size = 1 + signed(_SCALE) * self.scale
            # grid coordinates run from -1 to 1: a share of the width is twice that
            moved = torch.stack([signed(_SHIFT_X), signed(_SHIFT_Y)], 1) * (2 * self.shift)
            out = _moved(out, angle, size, moved)
        return out


def _contrasted(batch: Batch, gain: Tensor) -> Batch:
    image, mask = batch["image"], batch["mask"]
    visible = torch.ones_like(image[:, :1]) if mask is None else mask.index_select(0, batch["mask_index"])
    many = (visible.sum(dim=(1, 2, 3), keepdim=True) * image.shape[1]).clamp_min(1)
    mean = (image * visible).sum(dim=(1, 2, 3), keepdim=True) / many
    gain = gain.view(-1, 1, 1, 1)
    changed = ((image - mean) * gain + mean).clamp(0, 1)
    batch["image"] = torch.where(visible > 0, changed, image)
    if "clean" in batch:  # by the same mean: what is visible stays the same in both
        batch["clean"] = ((batch["clean"] - mean) * gain + mean).clamp(0, 1)
    return batch


def _cropped(batch: Batch, down: Tensor, right: Tensor) -> Batch:
    """Shift images by whole pixels `[B]`; what moves in is 0, in masks too."""
    image, mask = batch["image"], batch["mask"]
    count, _, height, width = image.shape
    rows = torch.arange(height, device=image.device) - down.view(-1, 1)  # [B,H], where each row comes from
    columns = torch.arange(width, device=image.device) - right.view(-1, 1)
    inside = ((rows >= 0) & (rows < height)).view(count, 1, height, 1)
    inside = inside & ((columns >= 0) & (columns < width)).view(count, 1, 1, width)
    at = (
        torch.arange(count, device=image.device).view(-1, 1, 1),
        rows.clamp(0, height - 1).unsqueeze(2),
        columns.clamp(0, width - 1).unsqueeze(1),
    )

    def moved(values: Tensor) -> Tensor:  # [B,C,H,W]
        return values.permute(0, 2, 3, 1)[at].permute(0, 3, 1, 2) * inside

    batch["image"] = moved(image)
    if "clean" in batch:
        batch["clean"] = moved(batch["clean"])
    if mask is not None:
        batch["mask"] = moved(mask.index_select(0, batch["mask_index"]))
        batch["mask_index"] = torch.arange(count, device=image.device)
    return batch


def _flipped(batch: Batch, flip: Tensor) -> Batch:
    batch["image"] = torch.where(flip.view(-1, 1, 1, 1), batch["image"].flip(-1), batch["image"])
    if "clean" in batch:
        batch["clean"] = torch.where(flip.view(-1, 1, 1, 1), batch["clean"].flip(-1), batch["clean"])
    mask = batch["mask"]
    if mask is not None:
        count = len(mask)
        if count > 1 and 2 * count > len(flip):  # a mask per image is fewer than both orientations of each
            mine = mask.index_select(0, batch["mask_index"])
            batch["mask"] = torch.where(flip.view(-1, 1, 1, 1), mine.flip(-1), mine)
            batch["mask_index"] = torch.arange(len(flip), device=flip.device)
        else:
            batch["mask"] = torch.cat([mask, mask.flip(-1)])
            batch["mask_index"] = batch["mask_index"] + flip * count
    return batch


def _moved(batch: Batch, angle: Tensor, size: Tensor, shift: Tensor) -> Batch:
    image, mask = batch["image"], batch["mask"]
    cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
    theta = torch.stack(
        [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1
    )  # [B,2,3]
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    batch["image"] = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if "clean" in batch:
        batch["clean"] = F.grid_sample(batch["clean"], grid, padding_mode="zeros", align_corners=False)
    if mask is not None:
        mine = mask.index_select(0, batch["mask_index"])
        moved = F.grid_sample(mine, grid, mode="nearest", padding_mode="zeros", align_corners=False)
        batch["mask"] = moved
        batch["mask_index"] = torch.arange(len(image), device=image.device)
        batch["image"] = batch["image"] * moved
    return batch
