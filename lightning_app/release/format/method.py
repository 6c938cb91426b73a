"""What a manifest says of a release's method, and back from there to the desensitizer that made it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_app.desensitize import CentreBlock, CentreBlur, Desensitizer, GaussianBlur, MaskOut, Mosaic
from lightning_app.desensitize.blur import default_sigma, gaussian_taps
from lightning_app.desensitize.centre import centre_box
from lightning_app.masks import load_mask, mask_hash, mask_ratio
from lightning_app.masks.freeform import Brush
from lightning_app.masks.guard import has_margin
from lightning_app.release.format.manifest import MASK, VERSION, Manifest, guard_of, public_method
from lightning_app.release.format.schema import brief, canonical, check_method
from lightning_app.release.format.traces import Traces

LEAST_HIDDEN = 0.1  # of the pixels: a mask, or a blurred centre, of less leaves a clean face
# pixels a side that recognisers take: a mosaic of more blocks, or a blur as fine, is a clean face
SHARPEST = 112
# px, standard deviation of a blur's weights: what a narrower one does, nothing tells from soft faces
LEAST_WIDTH = 1.2
_MOSAIC_WIDTHS = 3.2  # so many times its width is the block of a mosaic that halves the same wave
_SMALL = 64  # px: in images of more there are waves enough to tell a blur by
_DECIMALS = 3  # of a sigma that is not its kernel's own
_MADE: dict[str, Callable[[Mapping[str, Any]], Desensitizer]] = {
    "GaussianBlur": lambda a: GaussianBlur(a["kernel"], a["sigma"]),
    "CentreBlur": lambda a: CentreBlur(a["fraction"], a["kernel"], a["sigma"]),
    "Mosaic": lambda a: Mosaic(a["block"]),
}
_MASKED = ("MaskOut", "CentreBlock")
_OURS: dict[str, type[Desensitizer]] = {
    one.__name__: one for one in (CentreBlock, CentreBlur, GaussianBlur, MaskOut, Mosaic)
}
_OF_THE_MASK = ("size", "masks", "mask_hash", "mask_ratio", "guard")


def is_known(name: str) -> bool:
    """Tell whether a method is one of FaceVeil's own, which can be made from its description."""
    return name in _OURS


def method_text(manifest: Manifest) -> str:
    """Word a release's method: its class and its parameters."""
    about = {key: value for key, value in manifest.method.items() if key not in ("method", "taps")}
    shown = [manifest.method["method"]]
    shown += [f"{key} {value:g}" for key, value in about.items() if isinstance(value, int | float)]
    return " ".join(shown)


def describe(desensitizer: Desensitizer, size: int, mask: Tensor | None) -> dict[str, Any]:
    """Return what the manifest of a release says of its method.

    Of `MaskOut` it is what the mask is, not where it came from; of a class that is not FaceVeil's its name and
    `guard`, since nobody could check more.

    Args:
        desensitizer: prepared.
        size: side of the images in pixels.
        mask: `[1,1,H,W]` that lies on every image, 1 = visible; None where nothing is hidden.

    Raises:
        ValueError: it changes too little of an image, has a parameter of too many digits, or bears the name of
            another class.
    """
    name = type(desensitizer).__name__
    about = public_method(desensitizer.describe())
    if _OURS.get(name, type(desensitizer)) is not type(desensitizer):
        raise ValueError(
            f"desensitizer: {type(desensitizer).__module__}.{name} bears the name of FaceVeil's own {name}; rename "
            "the class"
        )
    if name == "MaskOut":
        about = {key: about[key] for key in _OF_THE_MASK if key in about}
    elif name not in _OURS:
        guard = guard_of(about)
        about = {"guard": guard} if guard and mask is not None else {}
    about["method"] = name
    faults = [] if mask is None else weak_mask(float(mask_ratio(mask[0])))
    try:
        check_method(about, size, mask is not None, VERSION)
        faults += weak_method(about, size)
    except ValueError as error:
        faults.append(str(error))
    if faults:
        raise ValueError(f"desensitizer: {name}: {faults[0]}; of this no release is made")
    return about


def weak_mask(ratio: float) -> list[str]:
    """Say what is wrong with a mask that hides next to nothing.

    Args:
        ratio: hidden pixels / all pixels.
    """
    if ratio >= LEAST_HIDDEN:
        return []
    return [
        f"its mask hides {ratio:.4f} of the pixels, less than {LEAST_HIDDEN}: images are as good as clean"
    ]


def weak_method(about: Mapping[str, Any], size: int) -> list[str]:
    """Say what is wrong with parameters that change next to nothing, or that have too many digits.

    Args:
        about: `method` of a manifest, which `check_method` let pass.
        size: side of the images in pixels.
    """
    faults = []
    if about["method"] == "CentreBlur":
        rows, columns = centre_box((size, size), about["fraction"])
        share = (rows.stop - rows.start) * (columns.stop - columns.start) / size**2
        if share < LEAST_HIDDEN:
            faults.append(
                f"fraction {about['fraction']} blurs {share:.4f} of the pixels, less than {LEAST_HIDDEN}: images are "
                "as good as clean"
            )
    if about["method"] == "Mosaic" and size > about["block"] * SHARPEST:
        faults.append(f"block {about['block']} leaves images of {size} pixels as good as clean: "
                      f"more than {SHARPEST} blocks a side")  # fmt: skip
    sigma = about.get("sigma")
    if sigma is not None:
        faults += _weak_blur(about["kernel"], sigma, size)
        traces = traces_of(about, size) if size <= _SMALL and not faults else None
        if traces is not None and not traces.shows:
            faults.append(f"nothing tells what it blurs of images of {size} pixels from clean faces")
    if sigma is not None and sigma not in (default_sigma(about["kernel"]), round(sigma, _DECIMALS)):
        faults.append(f"sigma {brief(sigma)} has more than {_DECIMALS} decimals")
    return faults


def traces_of(about: Mapping[str, Any], size: int) -> Traces | None:
    """Return what to look for in images that went through a method without a mask; None where it is not known.

    Args:
        about: `method` of a manifest, which `check_method` let pass.
        size: side of the images in pixels.

    Raises:
        ValueError: its sigma is none.
    """
    name = about["method"]
    if name == "Mosaic" and "block" in about:
        return Traces(size, block=about["block"])
    if name not in ("GaussianBlur", "CentreBlur") or "kernel" not in about:
        return None
    box = centre_box((size, size), about["fraction"])[0] if "fraction" in about else None
    return Traces(size, taps=gaussian_taps(about["kernel"], about["sigma"]), box=box)


def _weak_blur(kernel: int, sigma: float, size: int) -> list[str]:
    """Say what is wrong with a window that leaves faces as good as clean, or that nothing tells from clean ones."""
    reach = kernel // 2
    width = math.sqrt(sum(t * (i - reach) ** 2 for i, t in enumerate(gaussian_taps(kernel, sigma))))
    least = max(LEAST_WIDTH, size / (_MOSAIC_WIDTHS * SHARPEST))
    if width >= least:
        return []
    return [
        f"sigma {sigma:g} with {2 * reach + 1} weights blurs by {width:.2f} pixels, less than {least:.2f}: images of "
        f"{size} pixels are as good as clean"
    ]


def method_faults(root: str | Path, manifest: Manifest, mask: Tensor | None) -> list[str]:
    """Hold a manifest's method against what its class says of itself, made from that description.

    Args:
        root: the released folder.
        manifest: its own.
        mask: `[1,H,W]` of the release, read and found to be the manifest's; None where it has none, or where
            that could not be read.

    Returns:
        What is wrong, in words.
    """
    faults = _made_faults(root, manifest, mask)
    if faults or manifest.method["method"] not in _OURS:
        return faults
    return weak_method(manifest.method, manifest.size)


def _made_faults(root: str | Path, manifest: Manifest, mask: Tensor | None) -> list[str]:
    """Say what is wrong with a description, were it of a method that does enough, see `method_faults`."""
    about, name = manifest.method, str(manifest.method["method"])
    if manifest.mask is None:
        if name in _MASKED:
            return [f"its method is {name}, but it has no mask"]
        if name not in _MADE:
            return []
    elif name in _MADE:
        return [f"its method is {name}, which has no mask, but it has one"]
    elif mask is None or name not in _OURS:
        return []
    try:
        made = _made(root, manifest, mask)
    except (KeyError, TypeError, ValueError, OSError, OverflowError, RuntimeError, MemoryError) as error:
        return [f"its method cannot be made from its description ({_line(error)})"]
    if canonical(made) != canonical(about):
        return [f"its method is not what {name} says of itself, made from that very description"]
    return []


def margin_faults(manifest: Manifest, mask: Tensor) -> list[str]:
    """Say so where a release's mask cannot have got the guard that its manifest gives.

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


def _made(root: str | Path, manifest: Manifest, mask: Tensor | None) -> dict[str, Any]:
    """Describe what is made of a manifest's description."""
    about, sides = manifest.method, (manifest.size, manifest.size)
    name = about["method"]
    if mask is None:
        return public_method(_MADE[name](about).describe())
    if name == "CentreBlock":
        block = CentreBlock(about["fraction"])
        block.prepare(sides)
        return public_method(block.describe())
    if "freeform" in about:  # version 1
        low, high = about["freeform"]
        drawn = MaskOut(
            freeform=(low, high), count=1, seed=about["seed"], brush=Brush(**about["brush"]), draw=about["draw"],
            guard=about.get("guard", 0), size=sides,
        )  # fmt: skip
        return public_method(drawn.describe())
    found = public_method(MaskOut(mask=Path(root) / MASK, size=sides).describe())
    found |= {key: about[key] for key in ("guard", "levels", "hidden", "draw") if key in about}
    levels = about.get("levels")
    if (
        levels
        and not about.get("guard")
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
    name = str(manifest.method["method"])
    if name not in _MADE:
        raise ValueError(
            f"{root}: released by {name}, which cannot be made from its description: give the desensitizer itself "
            "(data.reader.init_args.veil)"
        )
    if faults := _made_faults(root, manifest, None):
        raise ValueError(
            f"{root}: {faults[0]}: the release is damaged, or install the version that its manifest names"
        )
    return _MADE[name](manifest.method)
