"""What watches a run."""

from callbacks.budget import BudgetPicture
from callbacks.checkpoint import RunCheckpoint
from callbacks.classification import ClassificationReport
from callbacks.dssim import DSSIMReport
from callbacks.embeddings import Embeddings
from callbacks.end_together import EndTogether
from callbacks.epoch_row import EpochRow
from callbacks.face_similarity import FaceSimilarityReport
from callbacks.finite import FiniteLoss
from callbacks.fsm_ablation import FSMAblation
from callbacks.mask_pictures import MaskPictures
from callbacks.mixing import MixingShares
from callbacks.options import HeadFirst, TrainerOptions
from callbacks.pictures import Pictures
from callbacks.progress import ProgressBar
from callbacks.restoration import RestorationPictures
from callbacks.results import Results
from callbacks.run_state import RunState
from callbacks.summary import Summary
from callbacks.throughput import Throughput
from callbacks.verification import LFWVerification

__all__ = [
    "BudgetPicture",
    "ClassificationReport",
    "DSSIMReport",
    "Embeddings",
    "EndTogether",
    "EpochRow",
    "FSMAblation",
    "FaceSimilarityReport",
    "FiniteLoss",
    "HeadFirst",
    "LFWVerification",
    "MaskPictures",
    "MixingShares",
    "Pictures",
    "ProgressBar",
    "RestorationPictures",
    "Results",
    "RunCheckpoint",
    "RunState",
    "Summary",
    "Throughput",
    "TrainerOptions",
]
