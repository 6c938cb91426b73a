"""Faces and their landmarks found by dlib, an optional extra, and which of several faces is meant."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lightning_app.alignment.similarity import Pixels, Points

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels

LANDMARKS_68 = "shape_predictor_68_face_landmarks.dat"
LANDMARKS_5 = "shape_predictor_5_face_landmarks.dat"  # eye corners and nose, no mouth
RECOGNISER = "dlib_face_recognition_resnet_model_v1.dat"
_MODELS = "face_recognition_models"
INSTALL = "pip install 'faceveil[dlib]'"
_LONGEST = 1024  # pixels; a larger image is reduced for the search: 12 megapixels would take seconds
_LEFT_EYE, _RIGHT_EYE, _NOSE, _MOUTH = range(36, 42), range(42, 48), 30, (48, 54)


@dataclass(frozen=True)
class Face:
    """A face that was found.

    Attributes:
        box: left, top, right, bottom in pixels of the image.
        score: of the detector, above 0.
        points: `[5,2]` landmarks, where the detector finds them with the face; else `landmarks` does.
    """

    box: Box
    score: float
    points: Points | None = None


@dataclass(frozen=True)
class Choice:
    """Which of the faces in an image is meant.

    Attributes:
        number: of the face; None where there is none, or none clearly more central than the next.
        central: how far off the centre the most central face is, see `off_centre`; None without a face.
        following: the next most central one; None where there is at most one face.
    """

    number: int | None
    central: float | None = None
    following: float | None = None


def load_dlib(what: str) -> Any:
    """Import dlib.

    Args:
        what: needs it, for the message.

    Raises:
        ValueError: it, or the package of its models, is not installed; says what to install.
    """
    for package in ("dlib", _MODELS):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"{what} needs dlib and its models ({package} is not installed): {INSTALL}")
    return importlib.import_module("dlib")


def model_path(name: str) -> str:
    """Return where one of dlib's models lies; the package is not imported, its import needs an old setuptools.

    Args:
        name: of the file, such as `LANDMARKS_68`.

    Raises:
        ValueError: it is not installed.
    """
    spec = importlib.util.find_spec(_MODELS)
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        path = Path(folder) / "models" / name
        if path.is_file():
            return str(path)
    raise ValueError(f"dlib's model {name} is not installed: {INSTALL}")


class DlibFaces:
    """Find faces with dlib's frontal detector (HOG), and five landmarks of each from its 68.

    An image in which nothing is found is searched once more at twice the size: the detector sees no face of
    less than 80 pixels. One with a longer side than 1,024 pixels is searched at that size.

    Raises:
        ValueError: dlib or its models are not installed.

    Source: King, Dlib-ml, JMLR 10, 2009; Kazemi and Sullivan, One Millisecond Face Alignment, CVPR 2014.
    """

    def __init__(self) -> None:
        self._dlib = load_dlib("landmarks: null")
        self._detector = self._dlib.get_frontal_face_detector()
        self._predictor = self._dlib.shape_predictor(model_path(LANDMARKS_68))

    def find(self, pixels: Pixels) -> list[Face]:
        """Find all faces.

        Args:
            pixels: uint8 `[H,W]` or `[H,W,3]`.
        """
        height, width = pixels.shape[:2]
        by = min(1.0, _LONGEST / max(height, width))
        small = pixels
        if by < 1:
            size = (max(1, round(width * by)), max(1, round(height * by)))
            small = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
        small = np.ascontiguousarray(small)
        boxes, scores, _ = self._detector.run(small, 0, 0.0)
        if not boxes:
            boxes, scores, _ = self._detector.run(small, 1, 0.0)
        return [
            Face(tuple(float(edge) / by for edge in (b.left(), b.top(), b.right(), b.bottom())), float(s))
            for b, s in zip(boxes, scores, strict=True)
        ]

    def landmarks(self, pixels: Pixels, box: Box) -> Points:
        """Find five landmarks: the eyes' centres are the means of six points each, nose and mouth single ones.

        Args:
            pixels: uint8 `[H,W]` or `[H,W,3]`.
            box: of the face.

        Returns:
            `[5,2]` x, y in pixels, in the template's order.
        """
        rectangle = self._dlib.rectangle(*(round(edge) for edge in box))
        shape = self._predictor(np.ascontiguousarray(pixels), rectangle)
        points = np.array([(part.x, part.y) for part in shape.parts()], np.float64)
        eyes = [points[list(eye)].mean(0) for eye in (_LEFT_EYE, _RIGHT_EYE)]
        return np.stack([*eyes, points[_NOSE], *(points[corner] for corner in _MOUTH)])


def off_centre(box: Box, width: int, height: int) -> float:
    """Return how far a face lies off the centre of its image.

    Args:
        box: of the face.
        width: of the image in pixels.
        height: of the image in pixels.

    Returns:
        Distance between the centres of box and image, in sides of the box (square root of its area): a large
        face is more central than a small one at the same place.
    """
    left, top, right, bottom = box
    x, y = (left + right) / 2 - (width - 1) / 2, (top + bottom) / 2 - (height - 1) / 2
    side = float(np.sqrt(max((right - left) * (bottom - top), 1.0)))
    return float(np.hypot(x, y)) / side


def choose_face(boxes: Sequence[Box], width: int, height: int, margin: float = 0.5) -> Choice:
    """Choose the most central face, if it is clearly more central than the next.

    Args:
        boxes: of the faces.
        width: of the image in pixels.
        height: of the image in pixels.
        margin: by how much the next face must lie further off the centre, in sides of a face (`off_centre`).
    """
    distances = [off_centre(box, width, height) for box in boxes]
    order = sorted(range(len(boxes)), key=distances.__getitem__)
    if not order:
        return Choice(None)
    central = distances[order[0]]
    if len(order) == 1:
        return Choice(order[0], central)
    following = distances[order[1]]
    return Choice(order[0] if following - central >= margin else None, central, following)
