"""One image from the unaligned to the aligned set: decoded upright, looked at, refused or warped and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from lightning_app.alignment.detect import Box, choose_face
from lightning_app.alignment.finders import Detector, make_finder
from lightning_app.alignment.pixels import Undecodable, encode, read_oriented
from lightning_app.alignment.similarity import Pixels, Points, align_face, is_flat, misfit
from lightning_app.alignment.turned import seem_stored, upright_points
from lightning_app.core.files import write_atomically

Reason: TypeAlias = Literal[
    "undecodable",
    "same name",
    "no landmarks",
    "two sets of landmarks",
    "landmarks of the stored pixels",
    "no face",
    "several faces",
    "outside the image",
    "degenerate",
    "too small",
    "misfit",
]


LandmarkPixels: TypeAlias = Literal["upright", "stored"]


@dataclass(frozen=True)
class Rules:
    """How a set is aligned, and what is refused.

    Attributes:
        root: folder of the unaligned set.
        output: folder of the aligned set.
        size: side of an aligned face in pixels.
        jpeg_quality: 1 … 100; None writes PNG.
        min_interocular: least distance between the eyes, in pixels of the source.
        max_misfit: largest misfit of the landmarks, see `alignment.misfit`.
        centre_margin: how much more central than the next a face must be, see `choose_face`.
        landmark_pixels: which pixels given landmarks speak of, where EXIF says that an image must be turned.
        detector: that finds faces; None takes the one that is installed.
    """

    root: str
    output: str
    size: int
    jpeg_quality: int | None
    min_interocular: float
    max_misfit: float
    centre_margin: float
    landmark_pixels: LandmarkPixels = "upright"
    detector: Detector | None = None


@dataclass(frozen=True)
class FaceFile:
    """One image to align.

    Attributes:
        file: its path in the set, with `/`.
        target: its path in the aligned set.
        stamp: changes with the image and its landmarks.
        points: `[5,2]` given landmarks, in pixels of the upright image; None looks for a face.
        refused: why it cannot be aligned, where that is known already.
    """

    file: str
    target: str
    stamp: str
    points: Points | None = None
    refused: Reason | None = None


@dataclass(frozen=True)
class AlignOutcome:
    """What became of an image.

    Attributes:
        file: its path in the set.
        target: its path in the aligned set.
        stamp: of the job.
        reason: why it was refused; None where it was aligned.
        bytes: size of the file written; 0 where it was refused.
        width: of the upright image in pixels; None where it cannot be decoded.
        height: likewise.
        faces: how many were found; None where nobody looked.
        central: how far off the centre the most central face is, in sides of the face.
        following: the same of the next face.
        interocular: distance between the eyes in pixels.
        misfit: see `alignment.misfit`.
        boxes: of the faces found; empty where the image was aligned.
        points: landmarks of the face; empty where the image was aligned.
    """

    file: str
    target: str
    stamp: str
    reason: Reason | None = None
    bytes: int = 0
    width: int | None = None
    height: int | None = None
    faces: int | None = None
    central: float | None = None
    following: float | None = None
    interocular: float | None = None
    misfit: float | None = None
    boxes: Sequence[Box] = field(default=())
    points: Sequence[Sequence[float]] = field(default=())


def fault_of(points: Points, width: int, height: int, rules: Rules) -> Reason | None:
    """Return what is wrong with landmarks; None where nothing is.

    Args:
        points: `[5,2]` in pixels; the first pixel's centre is at 0.
        width: of the image.
        height: of the image.
        rules: the limits.
    """
    inside = (points >= -0.5) & (points <= np.array([width, height]) - 0.5)
    if not inside.all():
        return "outside the image"
    if is_flat(points):
        return "degenerate"
    if interocular(points) < rules.min_interocular:
        return "too small"
    return "misfit" if misfit(points) > rules.max_misfit else None


def interocular(points: Points) -> float:
    """Return the distance between the eyes in pixels.

    Args:
        points: `[5,2]`.
    """
    return float(np.linalg.norm(points[1] - points[0]))


class Placer:
    """Align images one by one; whatever is not clearly right is refused and written nowhere.

    Args:
        rules: how.
        search: look for faces where a job has no landmarks.

    Raises:
        ValueError: the detector is not installed.
    """

    def __init__(self, rules: Rules, search: bool) -> None:
        self.rules = rules
        self._faces = make_finder(rules.detector) if search else None

    def __call__(self, job: FaceFile) -> AlignOutcome:
        """Align one image: write it, or remove what an earlier run has written for it.

        Args:
            job: which.

        Raises:
            OSError: the aligned set cannot be written.
        """
        target = Path(self.rules.output) / job.target
        outcome, face = self._look(job)
        if face is None:
            target.unlink(missing_ok=True)
            return outcome
        data = encode(face, self.rules.jpeg_quality)
        write_atomically(target, data)
        return replace(outcome, bytes=len(data))

    def _look(self, job: FaceFile) -> tuple[AlignOutcome, Pixels | None]:
        outcome = AlignOutcome(job.file, job.target, job.stamp)
        try:
            pixels, orientation = read_oriented(str(Path(self.rules.root) / job.file))
        except Undecodable:
            return replace(outcome, reason=job.refused or "undecodable"), None
        height, width = pixels.shape[:2]
        outcome = replace(outcome, width=width, height=height)
        if job.refused is not None:
            return replace(outcome, reason=job.refused), None
        points = job.points
        if points is not None and self.rules.landmark_pixels == "stored":
            points = upright_points(points, orientation, width, height)
        elif points is not None and not is_flat(points) and seem_stored(points, orientation, width, height):
            reason: Reason | None = "landmarks of the stored pixels"
            return replace(outcome, reason=reason, points=points.tolist()), None
        if points is None:
            assert self._faces is not None
            found = self._faces.find(pixels)
            boxes = [face.box for face in found]
            choice = choose_face(boxes, width, height, self.rules.centre_margin)
            outcome = replace(
                outcome, faces=len(found), central=choice.central, following=choice.following, boxes=boxes
            )
            if choice.number is None:
                return replace(outcome, reason="several faces" if found else "no face"), None
            face = found[choice.number]
            points = self._faces.landmarks(pixels, face.box) if face.points is None else face.points
        outcome = replace(
            outcome,
            interocular=interocular(points),
            misfit=None if is_flat(points) else misfit(points),
            points=points.tolist(),
        )
        reason = fault_of(points, width, height, self.rules)
        if reason is not None:
            return replace(outcome, reason=reason), None
        return replace(outcome, boxes=(), points=()), align_face(pixels, points, self.rules.size)
