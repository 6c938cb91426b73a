"""The mask a desensitizer desensitizes with, where it is one, and the hash that all owners have to agree on."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor

from datamodules.same_description import key_hashes
from lightning_app.core.owner_key import is_of_this_process
from lightning_app.desensitize import Desensitizer
from lightning_app.desensitize.base import only_hides
from lightning_app.federated.protocol.messages import Refusal


def mask_and_hash(desensitizer: Desensitizer, size: int) -> tuple[Tensor | None, str]:
    """Return a desensitizer's one shared mask, and the hash that all owners must have.

    The mask stands for the desensitizer, and may travel in its place, where it is all that the desensitizer does.

    Args:
        desensitizer: prepared here for images of this size.
        size: side of the images in pixels.

    Raises:
        Refusal: all need one key, and it has none from a file.

    Returns:
        `[1,H,W]` uint8, 1 = visible, or None where there is no such mask; and the hash of the mask or masks
        (`mask_hash`), or the SHA-256 of what owners must have in common (`Desensitizer.agreed`) where it does more.
    """
    desensitizer.prepare((size, size))
    check_key_files(desensitizer)
    description = desensitizer.describe()
    if not only_hides(desensitizer) or "mask_hash" not in description:
        return None, digest(desensitizer.agreed())  # every owner may mix with a key of its own
    mask = desensitizer.shared_mask
    return (None if mask is None else mask[0].to("cpu", torch.uint8)), str(description["mask_hash"])


def check_key_files(desensitizer: Desensitizer) -> None:
    """Refuse a random key where all who train one model must draw from the same.

    Args:
        desensitizer: prepared; of the server, or of an owner.

    Raises:
        Refusal: it draws from a random key that ends with this process.
    """
    if any(is_of_this_process(key) for key in key_hashes(desensitizer.agreed())):
        raise Refusal(
            f"data.desensitizer.key: {type(desensitizer).__name__} draws from a random key here, and all owners and "
            "the server need the same one: give each the same key file"
        )


def digest(description: object) -> str:
    """Return the SHA-256 of anything JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode()).hexdigest()
