"""Where pixels and identities come from."""

from datamodules.augment import Augment
from datamodules.drawn import DrawnFaces
from datamodules.drawn_pairs import DrawnPairs
from datamodules.face import FaceDataModule
from datamodules.folder import FolderFaces
from datamodules.pairs import BinFaces, PairFaces
from datamodules.recordio import RecordIOFaces
from datamodules.released import ReleasedFaces

__all__ = [
    "Augment",
    "BinFaces",
    "DrawnFaces",
    "DrawnPairs",
    "FaceDataModule",
    "FolderFaces",
    "PairFaces",
    "RecordIOFaces",
    "ReleasedFaces",
]
