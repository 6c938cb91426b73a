"""How a mask comes to be: drawn, searched for, read from a file, taken from a folder. 1 = visible, 0 = hidden."""

from lightning_app.masks.freeform import Brush, Stroke, draw_strokes, freeform_masks, freeform_strokes
from lightning_app.masks.guard import guarded
from lightning_app.masks.io import load_mask, mask_hash, mask_ratio, save_mask
from lightning_app.masks.levels import NVIDIA_LEVELS, MaskLevels
from lightning_app.masks.saliency.ebp import ExcitationBackprop
from lightning_app.masks.saliency.template import (
    MeanSaliency,
    critical_template,
    enlarge,
    mean_saliency,
    saliency_maps,
)
from lightning_app.masks.search.candidates import BrushRange, Candidate
from lightning_app.masks.search.objective import MaskScorer, objective
from lightning_app.masks.search.run import SearchResult, search, write_candidates
from lightning_app.masks.search.strategies import SearchRow

__all__ = [
    "NVIDIA_LEVELS",
    "Brush",
    "BrushRange",
    "Candidate",
    "ExcitationBackprop",
    "MaskLevels",
    "MaskScorer",
    "MeanSaliency",
    "SearchResult",
    "SearchRow",
    "Stroke",
    "critical_template",
    "draw_strokes",
    "enlarge",
    "freeform_masks",
    "freeform_strokes",
    "guarded",
    "load_mask",
    "mask_hash",
    "mask_ratio",
    "mean_saliency",
    "objective",
    "saliency_maps",
    "save_mask",
    "search",
    "write_candidates",
]
