"""OpenCV's two classical inpaintings, which know nothing of faces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_app.attacks.base import Attack
from lightning_app.core.batch import Batch

Pixels = NDArray[np.uint8]


class _Inpainting(Attack):
    """What both have in common: uint8 pixels, one image at a time, threads over the batch.

    Args:
        radius: radius of the neighbourhood that a hidden pixel is computed from, in pixels.

    Raises:
        ValueError: the radius is not positive.
    """

    needs_mask = True
    _method: int

    def __init__(self, radius: float = 3.0) -> None:
        super().__init__()
        if not 0 < radius <= 100:
            raise ValueError(f"radius: {radius}; give pixels above 0, at most 100 (OpenCV's own bound)")
        self.radius = radius

    def guess(self, released: Batch) -> Tensor:
        """Inpaint every image under its mask, on the uint8 grid."""
        desensitized, mask, mask_index = released["image"], released["mask"], released["mask_index"]
        assert mask is not None
        images = (desensitized * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
        holes = (mask[:, 0] == 0).byte().cpu().numpy()
        which = mask_index.tolist()

        def one(number: int) -> Pixels:
            found = cv2.inpaint(images[number], holes[which[number]], self.radius, self._method)
            return np.asarray(found, dtype=np.uint8)

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # OpenCV releases the interpreter's lock
            done: Iterator[Pixels] = pool.map(one, range(len(images)))
            restored = torch.from_numpy(np.stack(list(done))).permute(0, 3, 1, 2)
        return restored.to(desensitized) / 255

    def describe(self) -> dict[str, object]:
        """Return the attack and its radius in pixels."""
        return super().describe() | {"radius": self.radius}


class Telea(_Inpainting):
    """Fill in from the edge inwards by weighted means along the image's level lines.

    Args:
        radius: radius of the neighbourhood that a hidden pixel is computed from, in pixels, above 0 up to 100.

    Raises:
        ValueError: the radius is out of range.

    Source: Telea, "An image inpainting technique based on the fast marching method", 2004; `cv2.INPAINT_TELEA`.
    """

    _method = cv2.INPAINT_TELEA


class NavierStokes(_Inpainting):
    """Fill in by transporting the image's smoothness along its level lines, as a fluid would.

    Args:
        radius: radius of the neighbourhood that a hidden pixel is computed from, in pixels, above 0 up to 100.

    Raises:
        ValueError: the radius is out of range.

    Source: Bertalmio, Bertozzi, Sapiro, "Navier-Stokes, fluid dynamics, and image and video inpainting", CVPR
    2001; `cv2.INPAINT_NS`.
    """

    _method = cv2.INPAINT_NS
