"""How a mask comes to be: drawn, searched for, read from a file, taken from a folder. 1 = visible, 0 = hidden."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_app.masks.freeform import Brush, Stroke, draw_strokes, freeform_masks, freeform_strokes
from lightning_app.masks.guard import guarded
from lightning_app.masks.io import load_mask, mask_hash, mask_ratio, save_mask
from lightning_app.masks.levels import NVIDIA_LEVELS, MaskLevels
from lightning_app.masks.search.candidates import BrushRange, Candidate
from lightning_app.masks.search.finals import Finalist, TrainedScorer, finals
from lightning_app.masks.search.objective import MaskScorer, objective
from lightning_app.masks.search.run import SearchResult, search, write_candidates
from lightning_app.masks.search.strategies import SearchRow

if TYPE_CHECKING:
    from lightning_app.masks.saliency.ebp import ExcitationBackprop
    from lightning_app.masks.saliency.template import (
        MeanSaliency,
        critical_template,
        enlarge,
        mean_saliency,
        saliency_maps,
    )

__all__ = [
    "NVIDIA_LEVELS",
    "Brush",
    "BrushRange",
    "Candidate",
    "ExcitationBackprop",
    "Finalist",
    "MaskLevels",
    "MaskScorer",
    "MeanSaliency",
    "SearchResult",
    "SearchRow",
    "Stroke",
    "TrainedScorer",
    "critical_template",
    "draw_strokes",
    "enlarge",
    "finals",
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

# captum brings matplotlib: who hides pixels under a mask does not wait for it
_SALIENCY = {
    "ExcitationBackprop": "ebp",
    "MeanSaliency": "template",
    "critical_template": "template",
    "enlarge": "template",
    "mean_saliency": "template",
    "saliency_maps": "template",
}


def __getattr__(name: str) -> Any:
    """Import what computes saliency maps when it is asked for."""
    if name in _SALIENCY:
        return getattr(import_module(f"{__name__}.saliency.{_SALIENCY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
