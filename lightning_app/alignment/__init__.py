"""Faces to their fixed place: five landmarks, a similarity transform, and a review list for what is doubtful."""

from lightning_app.alignment.detect import Choice, DlibFaces, Face, choose_face, off_centre
from lightning_app.alignment.landmarks import LandmarkFile
from lightning_app.alignment.place import AlignOutcome, FaceFile, Placer, Reason, Rules
from lightning_app.alignment.similarity import TEMPLATE, align_face, misfit, similarity, template

__all__ = [
    "TEMPLATE",
    "AlignOutcome",
    "Choice",
    "DlibFaces",
    "Face",
    "FaceFile",
    "LandmarkFile",
    "Placer",
    "Reason",
    "Rules",
    "align_face",
    "choose_face",
    "misfit",
    "off_centre",
    "similarity",
    "template",
]
