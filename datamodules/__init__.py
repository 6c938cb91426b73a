"""Where pixels and identities come from."""

from datamodules.augment import Augment
from datamodules.drawing.pairs import DrawnPairs
from datamodules.drawing.reader import DrawnFaces
from datamodules.face import FaceDataModule
from datamodules.readers.celeba import CelebAFaces
from datamodules.readers.class_folders import ClassFolders
from datamodules.readers.fer import FERFaces
from datamodules.readers.folder import FolderFaces
from datamodules.readers.recordio import RecordIOFaces
from datamodules.readers.released import ReleasedFaces
from datamodules.verification.readers import BinFaces, PairFaces
from datamodules.verification.released_pairs import ReleasedPairs

__all__ = [
    "Augment",
    "BinFaces",
    "CelebAFaces",
    "ClassFolders",
    "DrawnFaces",
    "DrawnPairs",
    "FERFaces",
    "FaceDataModule",
    "FolderFaces",
    "PairFaces",
    "RecordIOFaces",
    "ReleasedFaces",
    "ReleasedPairs",
]
