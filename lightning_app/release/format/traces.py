"""What a method without a mask leaves in every image it made: looked for without the raw image.

A mosaic is flat within each block. A Gaussian blur leaves next to nothing of fine waves but the error of rounding to
whole grey levels. A clean face is neither. It proves that images are smooth, not that they are of the raw set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
_PASSES = (0.01, 0.003, 0.001)  # share of a wave's amplitude that a blur lets through
# RMS of rounding in grey levels is 0.29 where errors are spread evenly, 0.5 at most; seen on faces: below 0.28
_ROUNDING = 0.4
_LARGEST = 127.5  # RMS of a picture about its middle grey, at most
# as `_PASSES`, each reaching down to the one before
_RINGS = (1e-4, 3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 0.016, 0.032)
_CUTS = tuple(sorted({*_PASSES, *_RINGS}))
_WAVES = 16  # of a ring at least: the mean of fewer is a matter of chance
_EXCESS = 1.4  # RMS, as a multiple of what blurred noise has: that has 1.33 at most, blurred faces 1.1


class TracesFound(NamedTuple):
    """What an image was found to show.

    Attributes:
        faults: what no image at all shows that went through the method, in words.
        sharp: it shows more than noise of the highest contrast would after the method. A pattern of stripes can do
            that; some share of faces cannot.
    """

    faults: list[str]
    sharp: bool = False


class Traces:
    """Look at released images for what their method must have left in them.

    A blur `A` turns an image `X` into `A X Aᵀ`. With `A = U S Vᵀ` the coefficients of `Uᵀ (A X Aᵀ) U` are those of
    `Vᵀ X V`, each times two singular values: how much of that wave is let through. Where that is little, a released
    image has next to nothing. Of a blurred centre what lies around it is known, and is taken off before.

    Args:
        size: side of the images in pixels.
        block: side of a mosaic's blocks; 0 where the method is none.
        taps: weights of a blur's window, as `lightning_app.desensitize.blur.gaussian_taps` gives them; none where
            the method is no blur.
        box: rows, which are the columns too, that are blurred; None for the whole image.
    """

    def __init__(
        self, size: int, block: int = 0, taps: Sequence[float] = (), box: slice | None = None
    ) -> None:
        self._block = block
        self._box = slice(0, size) if box is None else box
        self._blurs = bool(taps)
        self._rings = np.empty((0, 0))
        if taps:
            self._around = window_matrix(taps, size)[self._box]
            basis, passes, _ = np.linalg.svd(self._around[:, self._box])
            self._basis, self._around = basis.T.astype(np.float32), self._around.astype(np.float32)
            passed = np.outer(passes, passes).ravel()
            self._bins = np.searchsorted(
                _CUTS, passed
            )  # of each wave; the last are those of which too much is left
            self._bands = np.array([[cut <= limit for cut in _CUTS] for limit in _PASSES], np.float64)
            self._most = passed.size * (_ROUNDING + np.array(_PASSES) * _LARGEST) ** 2
            self._rings, self._noise = _rings(passed, self._bins)

    @property
    def shows(self) -> bool:
        """Whether there is anything to look for: a blur must take away enough of some wave."""
        return bool(self._block or len(self._rings))

    def faults(self, pixels: Pixels) -> list[str]:
        """Return what an image shows that its method would have taken away, whatever it was made of.

        Args:
            pixels: `[size,size,C]` uint8.
        """
        return self.look(pixels).faults

    def look(self, pixels: Pixels) -> TracesFound:
        """Look at one image.

        Args:
            pixels: `[size,size,C]` uint8.
        """
        if self._block and not _is_mosaic(pixels, self._block):
            return TracesFound(
                [f"is no mosaic: its blocks of {self._block} pixels are not of one colour each"]
            )
        if not self._blurs:
            return TracesFound([])
        power = self._power(pixels)
        over = power @ self._bands.T > self._most  # `[C, limits]`
        if over.any():
            channel, limit = np.argwhere(over)[0]
            rms = float(np.sqrt((power @ self._bands.T)[channel, limit] / self._bins.size))
            what = f"waves of which that leaves {_PASSES[limit]} stand out by {rms:.1f} grey levels"
            return TracesFound([f"is not blurred as its method says: {what}"], True)
        return TracesFound([], bool((power @ self._rings.T > _EXCESS**2 * self._noise).any()))

    def _power(self, pixels: Pixels) -> NDArray[np.float64]:
        """Sum the squares of the waves' coefficients about the middle grey, `[C, bins]`."""
        image = np.ascontiguousarray(np.moveaxis(pixels, 2, 0)).astype(np.float32)
        if self._box == slice(0, image.shape[1]):
            image -= np.float32(_LARGEST)
        else:
            inner = image[:, self._box, self._box].copy()
            image[:, self._box, self._box] = _LARGEST
            image = inner - self._around @ image @ self._around.T
        waves = self._basis @ image @ self._basis.T
        waves *= waves
        bins = len(_CUTS)
        sums = [np.bincount(self._bins, one.ravel(), bins + 1)[:bins] for one in waves]
        return np.stack(sums)


def too_many(sharp: int, images: int) -> bool:
    """Return whether so many images are sharp that they are no odd patterns.

    Args:
        sharp: how many images are, see `Seen`.
        images: how many there are.
    """
    return sharp > 0 and sharp >= min(images, max(3, images / 10))


def _is_mosaic(pixels: Pixels, block: int) -> bool:
    first = pixels[::block, ::block].repeat(block, axis=0).repeat(block, axis=1)
    return np.array_equal(first[: pixels.shape[0], : pixels.shape[1]], pixels)


def window_matrix(taps: Sequence[float], size: int) -> NDArray[np.float64]:
    """Return the matrix `[size,size]` that blurs a row of pixels; beyond the edge lies the mirror image.

    Args:
        taps: an odd number of weights, fewer than 2·size.
        size: pixels of the row.
    """
    reach = len(taps) // 2
    at = np.abs(np.arange(size)[:, None] + np.arange(-reach, reach + 1))
    at = np.where(at >= size, 2 * (size - 1) - at, at)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], at), np.broadcast_to(taps, at.shape))
    return matrix


def _rings(
    passed: NDArray[np.float64], bins: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Join bins of waves to rings of enough waves each, and say what noise would have in them.

    Args:
        passed: of each wave the share that is let through.
        bins: of each wave.

    Returns:
        Which bins are in each ring, `[R, bins]` of 0 and 1; for each ring the sum of squares after a blur of black and
        white at random, rounding errors of twice their usual size added.
    """
    power = (_LARGEST * passed) ** 2 + 4 / 12
    rings: list[NDArray[np.float64]] = []
    noise: list[float] = []
    joined = np.zeros(len(_CUTS))
    for number, cut in enumerate(_CUTS):
        joined[number] = 1
        within = np.isin(bins, np.flatnonzero(joined))
        if cut in _RINGS and within.sum() >= _WAVES:
            rings.append(joined)
            noise.append(float(power[within].sum()))
            joined = np.zeros(len(_CUTS))
    return np.array(rings).reshape(-1, len(_CUTS)), np.array(noise)
