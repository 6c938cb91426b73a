"""What a method without a mask leaves in every image it made: looked for without the raw image.

A mosaic is flat within each block. A Gaussian blur leaves nothing at high frequencies but the error of rounding to
whole grey levels. A clean face is neither. It proves that images are smooth, not that they are of the raw set.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LARGEST_BLURRED = 2048  # px: what is looked for a blur with takes some times the square of it in memory
Pixels = NDArray[np.uint8]
_PASSES = (0.01, 0.003, 0.001)  # share of a wave's amplitude that a blur lets through
# RMS of rounding in grey levels is 0.29 where errors are spread evenly, 0.5 at most; seen on faces: below 0.28
_ROUNDING = 0.4
_LARGEST = 127.5  # RMS of a picture about its middle grey, at most


class Traces:
    """Look at released images for what their method must have left in them.

    Args:
        size: side of the images in pixels.
        block: side of a mosaic's blocks; 0 where the method is none.
        taps: weights of a blur's window, as `lightning_app.desensitize.blur.gaussian_taps` gives them; none where
            the method is no blur of the whole image.

    Raises:
        ValueError: a blur of images of more than `LARGEST_BLURRED` pixels a side.
    """

    def __init__(self, size: int, block: int = 0, taps: Sequence[float] = ()) -> None:
        self._block = block
        self._bands: list[tuple[float, NDArray[np.float32]]] = []  # limit, weight of each wave below it
        if taps:
            if size > LARGEST_BLURRED:
                raise ValueError(f"size: {size} px; of more than {LARGEST_BLURRED} no blur can be told")
            self._basis, weight = _spectrum(size)
            wave = np.abs(_response(taps, size))
            passed = np.outer(wave, wave)
            self._bands = [(p, weight * (passed <= p)) for p in _PASSES if (passed <= p).any()]

    def faults(self, pixels: Pixels) -> list[str]:
        """Say what an image shows that its method would have taken away.

        Args:
            pixels: `[size,size,C]` uint8.
        """
        if self._block and not _is_mosaic(pixels, self._block):
            return [f"is no mosaic: its blocks of {self._block} pixels are not of one colour each"]
        if not self._bands:
            return []
        for channel in np.moveaxis(pixels, 2, 0):
            power = (self._basis @ (channel.astype(np.float32) - _LARGEST) @ self._basis.T) ** 2
            for limit, weight in self._bands:
                rms = float(np.sqrt((power * weight).sum()))
                if rms > _ROUNDING + limit * _LARGEST:
                    return [
                        f"is not blurred as its method says: waves of which that leaves {limit} stand out by "
                        f"{rms:.1f} grey levels"
                    ]
        return []


def _is_mosaic(pixels: Pixels, block: int) -> bool:
    first = pixels[::block, ::block].repeat(block, axis=0).repeat(block, axis=1)
    return np.array_equal(first[: pixels.shape[0], : pixels.shape[1]], pixels)


def _spectrum(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a basis `[size,size]` and weights: `weight · (basis @ x @ basis.T)²` sums to the mean square of x.

    It is the cosine transform (DCT-I) of what a blur sees: the image and, beyond its edges, its mirror image without
    the edge pixel again. The blur multiplies each of its waves by a number, see `_response`.
    """
    steps = np.arange(size)
    ends = np.ones(size)
    ends[[0, -1]] = 0.5
    basis = np.cos(np.pi * np.outer(steps, steps) / (size - 1)) * ends / (size - 1)
    return basis.astype(np.float32), (4 * np.outer(ends, ends)).astype(np.float32)


def _response(taps: Sequence[float], size: int) -> NDArray[np.float64]:
    """Return by what a window multiplies each wave of the cosine transform, `[size]`."""
    reach = len(taps) // 2
    offsets = np.arange(-reach, reach + 1)
    waves: NDArray[np.float64] = np.cos(np.pi * np.outer(np.arange(size), offsets) / (size - 1)) @ np.array(
        taps
    )
    return waves
