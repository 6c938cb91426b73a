"""The mask a desensitizer desensitizes with, where it is one, and the hash that all owners have to agree on."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor

from lightning_app.desensitize import Desensitizer, MaskOut


def mask_and_hash(desensitizer: Desensitizer, size: int) -> tuple[Tensor | None, str]:
    """Give a desensitizer's one shared mask and its hash.

    Args:
        desensitizer: prepared here for images of this size.
        size: side of the images in pixels.

    Returns:
        `[1,H,W]` uint8, 1 = visible, or None where there is no single mask; and the mask's hash (`mask_hash`), or
        the SHA-256 of what owners must have in common (`Desensitizer.agreed`) where it has none.
    """
    desensitizer.prepare((size, size))
    about = desensitizer.describe()
    # every owner may mix with a key of its own
    found = str(about["mask_hash"]) if "mask_hash" in about else digest(desensitizer.agreed())
    mask = desensitizer.mask if isinstance(desensitizer, MaskOut) else None
    return (None if mask is None else mask[0].to("cpu", torch.uint8)), found


def digest(about: object) -> str:
    """Return the SHA-256 of anything JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
