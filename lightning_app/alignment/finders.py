"""Who finds faces and their landmarks: dlib or CenterFace, each an optional extra."""

from __future__ import annotations

import importlib.util
from typing import Literal, Protocol, TypeAlias

from lightning_app.alignment.centerface import INSTALL as CENTERFACE
from lightning_app.alignment.centerface import CenterFaces, network_path
from lightning_app.alignment.detect import INSTALL as DLIB
from lightning_app.alignment.detect import Box, DlibFaces, Face
from lightning_app.alignment.similarity import Pixels, Points

Detector: TypeAlias = Literal["dlib", "centerface"]


class Finder(Protocol):
    """Finds faces, and five landmarks of each."""

    def find(self, pixels: Pixels) -> list[Face]:
        """Find all faces in uint8 `[H,W]` or `[H,W,3]`."""

    def landmarks(self, pixels: Pixels, box: Box) -> Points:
        """Find `[5,2]` landmarks of a face, in the template's order."""


def choose_detector(detector: Detector | None) -> Detector:
    """Return the detector to take: the one asked for, else the one that is installed, dlib before CenterFace.

    Args:
        detector: asked for.

    Raises:
        ValueError: there is no such detector, or none is asked for and none installed; says what to install.
    """
    if detector is not None:
        if detector not in ("dlib", "centerface"):
            raise ValueError(f"detector: {detector!r}; give dlib or centerface")
        return detector
    if all(importlib.util.find_spec(package) is not None for package in ("dlib", "face_recognition_models")):
        return "dlib"
    if network_path() is not None:
        return "centerface"
    raise ValueError(
        f"landmarks: null needs something that finds faces: {CENTERFACE} (7 MB), or {DLIB} (dlib and its models); "
        "or give a list of landmarks"
    )


def make_finder(detector: Detector | None) -> Finder:
    """Make what finds faces.

    Args:
        detector: see `choose_detector`.

    Raises:
        ValueError: it is not installed; says what to install.
    """
    return CenterFaces() if choose_detector(detector) == "centerface" else DlibFaces()
