"""Whether two descriptions are of one way to veil faces."""

from __future__ import annotations

from typing import Any

from lightning_app.desensitize import Desensitizer


def same_veil(theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Compare what `Desensitizer.describe` gave: equal masks where both have any, else all of it.

    Args:
        theirs: of a checkpoint or a released set.
        ours: of a desensitizer at hand.
    """
    hashes = [about.get("mask_hash") for about in (theirs, ours)]
    return hashes[0] == hashes[1] if all(hashes) else theirs == ours


def check_same(released: Desensitizer, given: Desensitizer | None, size: int) -> None:
    """Refuse a desensitizer other than the one that a released set went through.

    Args:
        released: of the set.
        given: by the user, if any.
        size: side of the images in pixels.

    Raises:
        ValueError: they differ.
    """
    if given is None:
        return
    given.prepare((size, size))
    theirs, ours = released.describe(), given.describe()
    if not same_veil(theirs, ours):
        raise ValueError(
            f"data.desensitizer: the released set was veiled by {brief(theirs)}, this is {brief(ours)}: leave it "
            "out (desensitizer: null), the set brings its own"
        )


def brief(about: dict[str, Any]) -> str:
    """Word a description shortly: the method, and of masks their ratio and the start of their hash."""
    ratio, digest = about.get("mask_ratio"), str(about.get("mask_hash", ""))[:12]
    return str(about["method"]) + (f" (mask ratio {ratio:.4f}, hash {digest})" if ratio is not None else "")
