"""What watches a run."""

from callbacks.dssim import DSSIMReport
from callbacks.embeddings import Embeddings
from callbacks.pictures import Pictures
from callbacks.progress import ProgressBar
from callbacks.restoration import RestorationPictures
from callbacks.results import Results
from callbacks.verification import LFWVerification

__all__ = [
    "DSSIMReport",
    "Embeddings",
    "LFWVerification",
    "Pictures",
    "ProgressBar",
    "RestorationPictures",
    "Results",
]
