"""Pillow's modes of images: two are enough for faces. No torch: worker processes of `align` import it."""

from __future__ import annotations

import numpy as np
from PIL import Image


def grey_or_rgb(image: Image.Image) -> Image.Image:
    """Convert an opened image to mode L where it is grey, else to RGB, and decode it.

    Args:
        image: of any mode; of 16-bit grey the upper eight bits are taken, where Pillow's own conversion clips at 255.
    """
    if image.mode in ("L", "RGB"):
        image.load()
        return image
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")
