"""How one of a few public masks is chosen for an image, and which settings go with which kind of masks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor

from lightning_app.core.plain import is_number
from lightning_app.desensitize.learned_entries import DECIMALS, MOST_EPSILON
from lightning_app.desensitize.mask_kinds import MASK_KINDS

Choice = Literal["best", "exponential"]


def check_settings(
    kind: str,
    choice: str,
    epsilon: float | None,
    key: str | Path | None,
    rounds: int | None,
    core: float | None,
    remember: bool = False,
) -> None:
    """Check arguments of `LearnedMask` that do not hang on its masker.

    Args:
        kind: see `LearnedMask`.
        choice: likewise.
        epsilon: likewise.
        key: likewise.
        rounds: likewise.
        core: likewise.
        remember: likewise.

    Raises:
        ValueError: one is out of range, or does not go with the kind.
    """
    if kind not in MASK_KINDS:
        raise ValueError(f"kind: {kind!r} is none of {', '.join(MASK_KINDS)}")
    if choice not in get_args(Choice):
        raise ValueError(f"choice: {choice!r} is neither 'best' nor 'exponential'")
    exponential = choice == "exponential"
    for name, value, fits, where in (
        ("choice", choice if exponential else None, kind == "codebook", "kind codebook"),
        ("epsilon", epsilon, exponential, "choice exponential"),
        ("key", key, exponential, "choice exponential"),
        ("rounds", rounds, kind == "core_first", "kind core_first"),
        ("core", core, kind == "core_first", "kind core_first"),
        ("remember", True if remember else None, kind != "population", "kinds with a mask for each image"),
    ):
        if value is not None and not fits:
            raise ValueError(f"{name}={value}: is for {where}; leave it out")
    if exponential and (epsilon is None or not 0 < epsilon < math.inf):
        raise ValueError(f"epsilon={epsilon}: choice exponential needs a number above 0")
    # what a manifest may say of it
    if exponential and not is_number(epsilon, 0, MOST_EPSILON, DECIMALS):
        raise ValueError(
            f"epsilon={epsilon}: give {MOST_EPSILON:,.0f} at most, of {DECIMALS} decimals at most"
        )
    if rounds is not None and rounds < 1:
        raise ValueError(f"rounds={rounds}: core_first needs at least 1")


def worth(masks: Tensor, soft: Tensor) -> Tensor:
    """Return what each public mask is worth for each image: the mean of its soft mask over the pixels shown.

    Args:
        masks: `[C,1,H,W]` of 0 and 1, 1 = visible.
        soft: `[B,1,H,W]` in [0,1], the masker's own for each image.

    Returns:
        `[B,C]` float64 in [0,1], whatever the image.
    """
    codes = masks.flatten(1).double()
    found: Tensor = soft.flatten(1).double() @ codes.T / codes.sum(1)
    return found


def chances(worths: Tensor, epsilon: float) -> Tensor:
    """Return up to which number in [0,1) each public mask is chosen, were that drawn uniformly.

    Masks have weights of exp(ε · worth / 2): as worth lies in [0,1], the choice is ε-locally private.

    Args:
        worths: `[B,C]`, see `worth`.
        epsilon: ε, above 0.

    Returns:
        `[B,C]` float64, rising to 1.

    Source: McSherry, Talwar, "Mechanism design via differential privacy", FOCS 2007.
    """
    return (worths * (epsilon / 2)).softmax(1).cumsum(1)
