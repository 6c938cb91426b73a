"""What a manifest may say of a learned mask, kind by kind, and what of it follows from the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_app.core.plain import Schema, is_count, is_hash, is_number, is_share
from lightning_app.desensitize.centre import mask_entries
from lightning_app.masks.io import mask_hash
from lightning_app.masks.learned import FEWEST_FACES, MOST_ROUNDS, bits_of_choice, shown_pixels

DECIMALS = 6  # of a share, and of ε
MOST_EPSILON = 1e6
_CODES = 4096


def bits_of(kind: str, size: tuple[int, int], share: float, masks: int, epsilon: float | None) -> float:
    """Return how many bits the mask of an image may tell of the pixels that it hides.

    Args:
        kind: of the masks.
        size: (height, width) of the images.
        share: of pixels shown.
        masks: of `codebook`, how many there are.
        epsilon: of a choice that is ε-locally private; None of another.
    """
    if kind == "free":
        return bits_of_choice(size[0] * size[1], shown_pixels(share, size))
    if kind == "codebook":
        most = math.log2(masks)
        return most if epsilon is None else min(most, epsilon * math.log2(math.e))
    return 0.0


def derived(description: Mapping[str, Any], size: tuple[int, int], mask: Tensor | None) -> dict[str, object]:
    """Return what follows from kind, share and the masks that are the same for all images.

    Args:
        description: with `kind`, `share` and perhaps `epsilon`.
        size: (height, width) of the images.
        mask: `[M,1,H,W]`, population's one or codebook's C; None of the other kinds.

    Returns:
        Bits, size, mask ratio, and, where there are such masks, their number and hash.
    """
    share = float(description["share"])
    shown, pixels, masks = shown_pixels(share, size), size[0] * size[1], 1 if mask is None else len(mask)
    found: dict[str, object] = {
        "bits": round(bits_of(str(description["kind"]), size, share, masks, description.get("epsilon")), 3),
        "size": list(size),
    }
    if mask is not None:
        found |= {"masks": masks, "mask_hash": mask_hash(mask)}
    return found | {"mask_ratio": (pixels - shown) / pixels}


def population_entries(size: int) -> Schema:
    """Return what a manifest may say of kind `population`: what its mask is, and of which masker."""
    return {
        **mask_entries(size),
        **_of_a_masker("population"),
        "faces": (lambda v: is_count(v, FEWEST_FACES), f"{FEWEST_FACES} faces or more"),
        "bits": (lambda v: isinstance(v, float) and v == 0, "0.0"),
        "masks": (lambda v: is_count(v, 1, 1), "1"),
    }


def each_entries(size: int) -> list[Schema]:
    """Return what a manifest may say of the kinds whose images have a mask each.

    Args:
        size: side of the images in pixels.
    """
    own = mask_entries(size)
    none = (lambda v: isinstance(v, float) and v == 0, "0.0")
    some = (lambda v: isinstance(v, float) and 0 <= v <= size * size, "a number of bits")
    core: Schema = {
        **_of_a_masker("core_first"), "size": own["size"], "mask_ratio": (is_share, "a share in (0,1)"), "bits": none,
        "rounds": (lambda v: is_count(v, 1, MOST_ROUNDS), f"1 to {MOST_ROUNDS} rounds"),
        "core": (lambda v: is_number(v, -1, 1, DECIMALS) and 0 <= v < 1, "a share of 6 decimals at most"),
    }  # fmt: skip
    free: Schema = {
        **_of_a_masker("free"), "size": own["size"], "mask_ratio": (is_share, "a share in (0,1)"), "bits": some,
    }  # fmt: skip
    best: Schema = {
        **_of_a_masker("codebook"), **own, "bits": some,
        "faces": (lambda v: is_count(v, FEWEST_FACES), f"{FEWEST_FACES} faces or more"),
        "masks": (lambda v: is_count(v, 1, _CODES), f"1 to {_CODES} masks"),
        "choice": (lambda v: v == "best", "best"),
    }  # fmt: skip
    private: Schema = {
        **best, "choice": (lambda v: v == "exponential", "exponential"),
        "epsilon": (lambda v: is_number(v, 0, MOST_EPSILON, DECIMALS), "a number above 0 of 6 decimals at most"),
        "key_hash": (is_hash, "a SHA-256"),
    }  # fmt: skip
    return [core, best, private, free]


def _of_a_masker(kind: str) -> Schema:
    return {
        "kind": (lambda v: v == kind, kind),
        "share": (lambda v: is_number(v, 0, 1, DECIMALS) and v < 1, "a share of 6 decimals at most"),
        "masker_hash": (is_hash, "a SHA-256"),
    }
