"""From a release's manifest back to the desensitizer that made it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_app.desensitize import CentreBlur, Desensitizer, GaussianBlur, MaskOut, Mosaic
from lightning_app.masks import load_mask, mask_hash
from lightning_app.release.manifest import MASK, Manifest, public_method

_MADE: dict[str, Callable[[dict[str, Any]], Desensitizer]] = {
    "GaussianBlur": lambda a: GaussianBlur(a["kernel"], a["sigma"]),
    "CentreBlur": lambda a: CentreBlur(a["fraction"], a["kernel"], a["sigma"]),
    "Mosaic": lambda a: Mosaic(a["block"]),
}


def desensitizer_of(root: str | Path, manifest: Manifest) -> Desensitizer:
    """Make the desensitizer that a release went through.

    Args:
        root: the released folder; its mask is read where it has one.
        manifest: its own.

    Returns:
        `MaskOut` with the release's own mask; without a mask, the method as the manifest describes it.

    Raises:
        FileNotFoundError: its mask is missing.
        ValueError: the mask is not the manifest's, or the method is not one of FaceVeil's own.
    """
    if manifest.mask is not None:
        path = Path(root) / MASK
        mask = load_mask(path, manifest.size)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != manifest.mask.sha256 or mask_hash(mask) != manifest.mask.mask_hash:
            raise ValueError(
                f"{path} is not the mask that the manifest gives: the release was changed; run audit"
            )
        return MaskOut(mask=path)
    about = manifest.method
    name = str(about["method"])
    if name not in _MADE:
        raise ValueError(
            f"{root}: released by {name}, which cannot be made from its description: give the desensitizer itself "
            "(data.reader.init_args.veil)"
        )
    try:
        made = _MADE[name](about)
    except (KeyError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        raise ValueError(
            f"{root}: its manifest describes {name} wrongly ({error!r}); the release is damaged"
        ) from error
    if public_method(made.describe()) != about:
        raise ValueError(
            f"{root}: released by {about}, but this FaceVeil makes {made.describe()} of it: install the version that "
            "the manifest names"
        )
    return made
