"""A mask like another one, but smooth, symmetric or without holes, at a mask ratio that is asked for."""

from __future__ import annotations

import math
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_app.masks.bits import as_array
from lightning_app.masks.freeform import check_ratio

_STEPS = 60  # halvings of the threshold's range
_SPECK = 0.002  # of the pixels: a visible piece that is smaller goes where there are to be no holes
_LEAST_BLUR = 0.5  # px: without any, a binary mask has no edge that could move
Field: TypeAlias = npt.NDArray[np.float64]
Shape: TypeAlias = npt.NDArray[np.uint8]


def reshaped(
    mask: Tensor,
    ratio: tuple[float, float],
    smooth: float = 0.0,
    symmetric: bool = False,
    hole_free: bool = False,
) -> Tensor:
    """Blur a mask, average it with its mirror image where asked, and cut it at the level that gives the mask ratio.

    Args:
        mask: `[1,H,W]` of 0 (hidden) and 1 (visible).
        ratio: (low, high) of the mask ratio of what comes out, both included; its middle is aimed at.
        smooth: standard deviation of the blur, in pixels; the larger, the fewer and rounder the parts.
        symmetric: the same left and right, as far as the mask's middle is the face's.
        hole_free: show what is hidden but enclosed by visible pixels, and hide visible specks (under 0.2 % of all).

    Returns:
        `[1,H,W]` float32.

    Raises:
        ValueError: an argument is out of range, or no level gives such a mask ratio.
    """
    low, high = check_ratio(ratio)
    if not 0 <= smooth <= max(mask.shape[-2:]):
        raise ValueError(f"smooth: {smooth} is no number of pixels from 0 to the mask's side")
    field = _field(as_array(mask)[0], smooth, symmetric)
    middle, below, above = (low + high) / 2, 0.0, 1.0
    best: Shape | None = None
    closest = math.inf
    for _ in range(_STEPS):  # the higher the level, the more is hidden
        level = (below + above) / 2
        shape = _cut(field, level, hole_free)
        found = 1 - cv2.countNonZero(shape) / shape.size
        if abs(found - middle) < abs(closest - middle):
            best, closest = shape, found
        below, above = (level, above) if found < middle else (below, level)
    if best is None or not low <= closest <= high:
        raise ValueError(
            f"ratio: [{low:g}, {high:g}] cannot be had of this mask so, the closest is {closest:.4f}; ask for a wider "
            "range, or another smooth"
        )
    return torch.from_numpy(best).to(torch.float32).unsqueeze(0)


def _field(mask: Shape, smooth: float, symmetric: bool) -> Field:
    """Return how much is visible around each pixel, `[H,W]` in [0,1]."""
    blur, visible = max(smooth, _LEAST_BLUR), mask.astype(np.float64)
    field: Field = np.asarray(
        cv2.GaussianBlur(visible, (0, 0), blur, borderType=cv2.BORDER_REFLECT_101), dtype=np.float64
    )
    if symmetric:
        field = (field + field[:, ::-1]) / 2
    return np.round(field, 9)  # what only rounding tells apart is one level, on every CPU


def _cut(field: Field, level: float, hole_free: bool) -> Shape:
    shape: Shape = (field > level).astype(np.uint8)
    if not hole_free:
        return shape
    count, labels = cv2.connectedComponents(1 - shape, connectivity=4)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    enclosed = np.ones(count, dtype=bool)
    enclosed[edge] = False
    enclosed[0] = False  # the visible pixels
    shape = (shape.astype(bool) | enclosed[labels]).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(shape, connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= _SPECK * shape.size
    large[0] = False  # the hidden pixels
    kept: Shape = large[labels].astype(np.uint8)
    return kept
