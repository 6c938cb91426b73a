"""Whether a release's tensors are what its method returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_app.desensitize import OURS
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.method import key_hashes


def tensor_faults(manifest: Manifest) -> list[str]:
    """Hold a manifest's tensors against what its method returns.

    Args:
        manifest: of a release of representations.
    """
    tensors, description = manifest.tensors, manifest.method
    assert tensors is not None
    kind = OURS.get(str(description["method"]))
    if kind is None or not kind.hides:
        return []
    faults = []
    mixed = next((step["k"] for step in (description, *description.get("steps", ())) if "k" in step), 1)
    if not isinstance(mixed, int):
        faults.append("its method leaves open how many images are mixed, and a release is mixed once for all")
    elif mixed != tensors.mixed:
        faults.append(f"tensors.mixed is {tensors.mixed}, its method mixes {mixed} images")
    try:
        shape, grid = kind.shape(description, manifest.size), kind.grid(description)
    except (ValueError, TypeError, LookupError) as error:
        return [*faults, f"its method cannot be made from its description ({error})"]
    if shape is not None and list(shape) != tensors.shape:
        faults.append(f"tensors.shape is {tensors.shape}, its method returns {list(shape)}")
    if tensors.dtype == "uint8" and grid != (tensors.scale, tensors.offset):
        faults.append(
            f"tensors has scale {tensors.scale} and offset {tensors.offset}, its method's are {grid}"
        )
    # keyed pictures of a list of pairs, which is of tensors, are tensors too
    listed = tensors.pairs > 0 and bool(key_hashes(description))
    if mixed == 1 and pictures(kind, description) and not listed:
        faults.append("its method returns pictures that are not mixed, which are released as PNG")
    return faults


def pictures(kind: Any, description: Mapping[str, Any]) -> bool:
    """Return whether a method of ours returns pictures: a chain does if all of its steps do.

    Args:
        kind: the class.
        description: `method` of a manifest.
    """
    steps = description.get("steps")
    if not isinstance(steps, list):
        return bool(kind.is_image)
    return all(OURS[str(step["method"])].is_image for step in steps)
