"""From five landmarks to a face in its fixed place: the template, the transform, the warp."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Pixels = NDArray[np.uint8]

TEMPLATE: Points = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
TEMPLATE_SIZE = 112
_FLAT = 0.05  # of the points' longer extent; a full profile, seen from the side, has 0.48
_LEAST = 1e-6  # pixels; points closer than this are one point


def template(size: int = TEMPLATE_SIZE) -> Points:
    """Return where the five points go: eyes, tip of the nose, corners of the mouth, as the image shows them.

    Args:
        size: side of the aligned face in pixels. Coordinates are those of 112 px times size/112, as
            InsightFace scales them: the centre of the first pixel stays at 0.

    Returns:
        `[5,2]` x, y in pixels; the eye on the left of the image comes first.

    Source: InsightFace, `arcface_dst`; ArcFace (Deng et al., CVPR 2019), section 3.
    """
    return TEMPLATE * (size / TEMPLATE_SIZE)


def similarity(source: Points, target: Points) -> Points:
    """Find the rotation, scale and shift that bring points nearest to others, without a reflection.

    Minimises Σ‖s·R·xᵢ + t − yᵢ‖² with det R = +1.

    Args:
        source: `[N,2]` x, y.
        target: `[N,2]`, where they shall go.

    Returns:
        `[2,3]`, (s·R | t): `target ≈ source @ M[:, :2].T + M[:, 2]`.

    Raises:
        ValueError: the shapes differ, a coordinate is not finite, or the source points coincide.

    Source: Umeyama, Least-squares estimation of transformation parameters between two point patterns, TPAMI
    13(4), 1991, formulas 34 to 43.
    """
    if source.ndim != 2 or source.shape[1] != 2 or source.shape != target.shape or len(source) < 2:
        raise ValueError(f"points {source.shape} to {target.shape}: give two arrays [N,2], N at least 2")
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("points: a coordinate is not a finite number")
    mean_x, mean_y = source.mean(0), target.mean(0)
    x, y = source - mean_x, target - mean_y
    variance = float((x**2).sum()) / len(x)
    if variance < _LEAST**2:
        raise ValueError("points: they coincide, no scale can be told from them")
    u, d, vt = np.linalg.svd(y.T @ x / len(x))
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * signs) @ vt
    scale = float((d * signs).sum()) / variance
    linear = scale * rotation
    return np.concatenate([linear, (mean_y - linear @ mean_x)[:, None]], 1)


def misfit(points: Points) -> float:
    """Return how far five points are from the template after the best similarity transform.

    Args:
        points: `[5,2]`, not all in one place.

    Returns:
        Root mean square distance, in distances between the template's eyes. Frontal faces of LFW have 0.1, a
        head turned by 45° 0.2, by 60° 0.3, by 75° 0.4; points in a wrong order 0.4 to 0.7.
    """
    target = template()
    matrix = similarity(points, target)
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return float(np.sqrt(((moved - target) ** 2).sum(1).mean()) / np.linalg.norm(target[1] - target[0]))


def is_flat(points: Points) -> bool:
    """Return whether points lie on a line, or all in one place.

    Args:
        points: `[N,2]` x, y in pixels.
    """
    extents = np.linalg.svd(points - points.mean(0), compute_uv=False)
    return bool(extents[0] < _LEAST or extents[1] < _FLAT * extents[0])


def align_face(pixels: Pixels, points: Points, size: int = TEMPLATE_SIZE) -> Pixels:
    """Move a face to its fixed place.

    Bilinear (OpenCV's `warpAffine`). What lies outside the image is black, as InsightFace has it: repeating
    the border would invent stripes that look like skin. A face that shrinks to less than half is reduced by
    area first, so that its detail does not turn into noise.

    Args:
        pixels: uint8 `[H,W]` or `[H,W,3]`.
        points: `[5,2]` landmarks in it, x, y, in the template's order; the first pixel's centre is at 0.
        size: side of the aligned face in pixels.

    Returns:
        uint8 `[size,size]` or `[size,size,3]`.

    Raises:
        ValueError: the landmarks give no transform, see `similarity`.
    """
    matrix = similarity(points, template(size))
    scale = float(np.sqrt(np.linalg.det(matrix[:, :2])))
    if scale < 0.5:
        height, width = pixels.shape[:2]
        factor = int(1 / scale)
        small = (max(1, round(width / factor)), max(1, round(height / factor)))
        pixels = np.asarray(cv2.resize(pixels, small, interpolation=cv2.INTER_AREA), np.uint8)
        by = np.array([small[0] / width, small[1] / height])
        # pixel u of the small image covers (u + ½) / by − ½ of the large one
        linear = matrix[:, :2] / by
        matrix = np.concatenate([linear, (matrix[:, 2] + linear @ (0.5 - by / 2))[:, None]], 1)
    warped = cv2.warpAffine(
        pixels, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0
    )
    return np.asarray(warped, np.uint8)
