"""How a mask comes to be: drawn, read from a file, taken from a folder. 1 = visible, 0 = hidden."""

from lightning_app.masks.freeform import Brush, Stroke, draw_strokes, freeform_masks, freeform_strokes
from lightning_app.masks.io import load_mask, mask_hash, mask_ratio, save_mask
from lightning_app.masks.levels import NVIDIA_LEVELS, MaskLevels

__all__ = [
    "NVIDIA_LEVELS",
    "Brush",
    "MaskLevels",
    "Stroke",
    "draw_strokes",
    "freeform_masks",
    "freeform_strokes",
    "load_mask",
    "mask_hash",
    "mask_ratio",
    "save_mask",
]
