"""What a manifest says of a release's method, and back from there to the desensitizer that made it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_app.core.files import file_sha256
from lightning_app.core.plain import canonical, short_json
from lightning_app.desensitize import OURS, Desensitizer, MaskOut
from lightning_app.desensitize.base import LEAST_HIDDEN
from lightning_app.desensitize.blur import default_sigma
from lightning_app.desensitize.learned_entries import derived
from lightning_app.desensitize.mask_kinds import mask_kind
from lightning_app.masks import load_mask, mask_hash, mask_ratio
from lightning_app.masks.guard import has_margin
from lightning_app.masks.learned import shown_pixels
from lightning_app.release.format.entries import VERSION
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.names import MASK
from lightning_app.release.format.own_masks import OwnMasks
from lightning_app.release.format.public import guard_of, public_method
from lightning_app.release.format.schema import check_method
from lightning_app.release.format.traces import Traces

_SMALL = 64  # px: in images of more there are waves enough to tell a blur by
_DECIMALS = 3  # of a sigma that is not its kernel's own


def is_known(name: str) -> bool:
    """Return whether a method is one of FaceVeil's own, which can be made from its description."""
    return _known(name) is not None


def _known(name: object) -> type[Desensitizer] | None:
    """Find the class of a release's method: one of ours that changes images; None for any other."""
    kind = OURS.get(str(name))
    return kind if kind is not None and kind.hides else None


def method_text(manifest: Manifest) -> str:
    """Return a release's method in words: its class and its parameters."""
    description = {key: value for key, value in manifest.method.items() if key not in ("method", "taps")}
    shown = [manifest.method["method"]]
    shown += [f"{key} {value:g}" for key, value in description.items() if isinstance(value, int | float)]
    return " ".join(shown)


def each_text(manifest: Manifest) -> str:
    """Return what masks the images of a release have, one each."""
    description = manifest.method
    of = f", of {description['masks']} public ones" if "masks" in description else ""
    return f"one for each image (kind {description['kind']}{of}), mask ratio {description['mask_ratio']:.4f}"


def describe(
    desensitizer: Desensitizer, size: int, mask: Tensor | None, version: int = VERSION, each: bool = False
) -> dict[str, Any]:
    """Return what the manifest of a release says of its method.

    Of `MaskOut` it is what the mask is, not where it came from; of a class that is not FaceVeil's its name and
    `guard`, since nobody could check more.

    Args:
        desensitizer: prepared.
        size: side of the images in pixels.
        mask: `[1,1,H,W]` that lies on every image, 1 = visible; None where nothing is hidden.
        version: of the manifest's format.
        each: whether every image has a mask of its own.

    Raises:
        ValueError: it changes too little of an image, has a parameter of too many digits, or bears the name of
            another class.
    """
    name = type(desensitizer).__name__
    description = public_method(desensitizer.describe())
    if OURS.get(name, type(desensitizer)) is not type(desensitizer):
        raise ValueError(
            f"desensitizer: {type(desensitizer).__module__}.{name} bears the name of FaceVeil's own {name}; rename "
            "the class"
        )
    if is_known(name):
        if not each:
            named = type(desensitizer).entries(size, version)[0]
            description = {key: value for key, value in description.items() if key in named}
    elif each:
        raise ValueError(
            f"desensitizer: {name} gives each image a mask of its own, and such masks are described of FaceVeil's own "
            "classes alone"
        )
    else:
        guard = guard_of(description)
        description = {"guard": guard} if guard and mask is not None else {}
    description["method"] = name
    faults = [] if mask is None else weak_mask(float(mask_ratio(mask[0])))
    if each:
        faults += weak_mask(float(description["mask_ratio"]))
    try:
        check_method(description, size, mask is not None or each, version, each)
        faults += weak_method(description, size)
    except ValueError as error:
        faults.append(str(error))
    if faults:
        raise ValueError(f"desensitizer: {name}: {faults[0]}; of this no release is made")
    return description


def weak_mask(ratio: float) -> list[str]:
    """Return what is wrong with a mask that hides next to nothing.

    Args:
        ratio: hidden pixels / all pixels.
    """
    if ratio >= LEAST_HIDDEN:
        return []
    return [
        f"its mask hides {ratio:.4f} of the pixels, less than {LEAST_HIDDEN}: images are as good as clean"
    ]


def weak_method(description: Mapping[str, Any], size: int) -> list[str]:
    """Return what is wrong with parameters that change next to nothing, or that have too many digits.

    Args:
        description: `method` of a manifest, which `check_method` let pass.
        size: side of the images in pixels.
    """
    kind = _known(description["method"])
    faults = (
        [] if kind is None else kind.weaknesses(description, size) + kind.inconsistencies(description, size)
    )
    sigma = description.get("sigma")
    if sigma is not None:
        traces = traces_of(description, size) if size <= _SMALL and not faults else None
        if traces is not None and not traces.shows:
            faults.append(f"nothing tells what it blurs of images of {size} pixels from clean faces")
    if sigma is not None and sigma not in (default_sigma(description["kernel"]), round(sigma, _DECIMALS)):
        faults.append(f"sigma {short_json(sigma)} has more than {_DECIMALS} decimals")
    return faults


def traces_of(description: Mapping[str, Any], size: int) -> Traces | None:
    """Return what to look for in images that went through a method without a mask; None where it is not known.

    Args:
        description: `method` of a manifest, which `check_method` let pass.
        size: side of the images in pixels.

    Raises:
        ValueError: its sigma is none.
    """
    kind = _known(description["method"])
    found = None if kind is None else kind.leaves(description, size)
    return None if found is None else Traces(size, **found)


def method_faults(
    root: str | Path, manifest: Manifest, mask: Tensor | None, codes: Tensor | None = None
) -> list[str]:
    """Hold a manifest's method against what its class says of itself, made from that description.

    Args:
        root: the released folder.
        manifest: its own.
        mask: `[1,H,W]` of the release, read and found to be the manifest's; None where it has none, or where
            that could not be read.
        codes: `[C,1,H,W]`, its public masks; likewise.

    Returns:
        What is wrong, in words.
    """
    faults = _made_faults(root, manifest, mask) if manifest.masks is None else _each_faults(manifest, codes)
    if _drawn_anew(manifest.method):
        faults.append("its method has redraw: epoch, and a release is drawn once")
    if faults or not is_known(manifest.method["method"]):
        return faults
    return weak_method(manifest.method, manifest.size)


def _made_faults(root: str | Path, manifest: Manifest, mask: Tensor | None) -> list[str]:
    """Return what is wrong with a description, were it of a method that does enough, see `method_faults`."""
    description, name = manifest.method, str(manifest.method["method"])
    kind = _known(name)
    if kind is None:
        return []
    if manifest.tensors is None and not kind.is_image:
        return [f"its method is {name}, which returns no pictures"]
    if manifest.tensors is not None and key_hashes(description):
        return []  # without the key nothing can be made of it
    if manifest.mask is None and kind.has_mask:
        return [f"its method is {name}, but it has no mask"]
    if manifest.mask is not None and not kind.has_mask:
        return [f"its method is {name}, which has no mask, but it has one"]
    if manifest.mask is not None and mask is None:
        return []
    try:
        made = _made(root, manifest, kind)
    except (KeyError, TypeError, ValueError, OSError, OverflowError, RuntimeError, MemoryError) as error:
        return [f"its method cannot be made from its description ({_line(error)})"]
    if canonical(made) != canonical(description):
        return [f"its method is not what {name} says of itself, made from that very description"]
    return []


def _each_faults(manifest: Manifest, codes: Tensor | None) -> list[str]:
    """Return what does not follow from the rest of a description of masks that images have one each."""
    description, masks = manifest.method, manifest.masks
    assert masks is not None
    kind = mask_kind(description)
    if (kind.public and not kind.one_for_all) != (masks.codes > 0):
        return [f"its masks are of kind {description['kind']}, and its codebook has {masks.codes}"]
    if masks.codes and codes is None:
        return []  # said already
    sides = (manifest.size, manifest.size)
    try:
        follows = derived(description, sides, codes)
        shown = shown_pixels(float(description["share"]), sides)
    except (ValueError, OverflowError) as error:
        return [f"its method cannot be made from its description ({_line(error)})"]
    odd = sorted(key for key, value in follows.items() if canonical(value) != canonical(description.get(key)))
    faults = [f"method.{key} does not follow from its masks and its share" for key in odd]
    if shown != masks.shown:
        faults.append(f"masks.shown is {masks.shown}, a share of {description['share']} is {shown} pixels")
    return faults


def key_hashes(description: object) -> list[str]:
    """List the hashes of the owners' keys in a description, those of a chain's steps among them.

    Args:
        description: what `Desensitizer.describe` gave, or a part of it.
    """
    if isinstance(description, dict):
        own = [str(description["key_hash"])] if description.get("key_hash") else []
        return own + [one for value in description.values() for one in key_hashes(value)]
    return (
        [one for value in description for one in key_hashes(value)]
        if isinstance(description, list | tuple)
        else []
    )


def _drawn_anew(description: object) -> bool:
    """Return whether a description says of the method, or of a step, that it draws anew in every epoch."""
    if isinstance(description, dict):
        return description.get("redraw") == "epoch" or any(map(_drawn_anew, description.values()))
    return isinstance(description, list | tuple) and any(map(_drawn_anew, description))


def margin_faults(manifest: Manifest, mask: Tensor) -> list[str]:
    """Return what is wrong where a release's mask cannot have got the guard that its manifest gives.

    Args:
        manifest: of the release.
        mask: `[1,H,W]`, its own.
    """
    assert manifest.mask is not None
    guard = manifest.mask.guard
    return (
        []
        if has_margin(mask, guard)
        else [f"its guard is {guard}, but its mask has no margin of {guard} pixels"]
    )


def _made(root: str | Path, manifest: Manifest, kind: type[Desensitizer]) -> dict[str, Any]:
    """Describe what is made of a manifest's description."""
    description, sides = manifest.method, (manifest.size, manifest.size)
    if not kind.needs_file(description):
        again = kind.from_description(description)
        again.prepare(sides)
        return public_method(again.describe())
    if kind is not MaskOut:
        one = kind.from_description(description, Path(root) / MASK)
        one.prepare(sides)
        return public_method(one.describe())
    found = public_method(MaskOut(mask=Path(root) / MASK, size=sides).describe())
    found |= {key: description[key] for key in ("guard", "levels", "hidden", "draw") if key in description}
    levels = description.get("levels")
    if (
        levels
        and not description.get("guard")
        and not any(low < found["mask_ratio"] <= high for low, high in levels)
    ):
        raise ValueError("its mask ratio lies in none of its levels")
    return found


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def desensitizer_of(root: str | Path, manifest: Manifest) -> Desensitizer:
    """Make the desensitizer that a release went through.

    Args:
        root: the released folder; its mask is read where it has one.
        manifest: its own.

    Returns:
        `MaskOut` with the release's own mask; without a mask, the method as the manifest describes it; where every
        image has a mask of its own, `OwnMasks`.

    Raises:
        FileNotFoundError: its mask is missing.
        ValueError: the mask is not the manifest's, or the method is not one of FaceVeil's own.
    """
    if manifest.mask is not None:
        path = Path(root) / MASK
        mask = load_mask(path, manifest.size)
        digest = file_sha256(path)
        if digest != manifest.mask.sha256 or mask_hash(mask) != manifest.mask.mask_hash:
            raise ValueError(
                f"{path} is not the mask that the manifest gives: the release was changed; run audit"
            )
        return MaskOut(mask=path)
    name = str(manifest.method["method"])
    kind = _known(name)
    if manifest.masks is not None:
        return OwnMasks(manifest)
    if kind is None or kind.has_mask:
        raise ValueError(
            f"{root}: released by {name}, which cannot be made from its description: give the desensitizer itself "
            "(data.reader.init_args.own_desensitizer)"
        )
    if faults := _made_faults(root, manifest, None):
        raise ValueError(
            f"{root}: {faults[0]}: the release is damaged, or install the version that its manifest names"
        )
    return kind.from_description(manifest.method)
