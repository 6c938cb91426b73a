"""Draw one free-form mask and write it with its facts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from rich import get_console
from torch import Tensor

from lightning_app.core.version import version
from lightning_app.masks import Brush, freeform_masks, load_mask, mask_hash, mask_ratio, save_mask
from lightning_app.masks.reshape import reshaped


def draw_mask(
    ratio: tuple[float, float] = (0.74, 0.78),
    size: int = 224,
    seed: int = 0,
    output: str = "masks/free76.png",
    strokes: Literal["hide", "reveal"] = "hide",
    min_vertex: int = 4,
    max_vertex: int = 11,
    max_length: float = 90.0,
    max_brush_width: float = 40.0,
    max_angle: float = 360.0,
    rectangle: tuple[int, int, int, int] | None = None,
    like: str | None = None,
    smooth: float = 0.0,
    symmetric: bool = False,
    hole_free: bool = False,
    overwrite: bool = False,
) -> None:
    """Draw a free-form mask with a mask ratio (hidden share) in a range: a PNG, and its facts as JSON.

    With `rectangle` the mask is no free-form one but hides all outside a box, whose size sets the mask ratio. With
    `like` it is another mask brought to the mask ratio and the shape that `smooth`, `symmetric`, `hole_free` ask for.

    Args:
        ratio: lowest and highest mask ratio, in [0,1].
        size: side of the mask in pixels, that of the images.
        seed: the mask is a function of it and of the other arguments.
        output: the PNG file to write; its facts go to the same name with .json.
        strokes: whether strokes hide what they cover, or reveal it and all else is hidden.
        min_vertex: fewest segments of a stroke.
        max_vertex: most segments of a stroke.
        max_length: longest segment, in pixels of a 256 px image.
        max_brush_width: widest brush, in pixels of a 256 px image.
        max_angle: largest angle of a segment, in degrees.
        rectangle: hide all outside this box instead of drawing strokes: left, top, right and bottom in pixels, right
            and bottom exclusive.
        like: a mask file to start from, such as a searched one, in place of strokes.
        smooth: blur it by so many pixels (standard deviation) before it is cut: fewer, rounder parts.
        symmetric: make a mask given by `like` the same left and right.
        hole_free: show, of a mask given by `like`, what is hidden inside its visible parts, and hide visible specks.
        overwrite: replace the output file where there is one.

    Raises:
        FileExistsError: if the output or its JSON is there already, and overwrite is off.
        ValueError: if an argument is out of range, or no mask in the range of ratios was found.
    """
    path = Path(output)
    if path.suffix.lower() != ".png":
        raise ValueError(f"output: {path} does not end in .png, and masks are saved as PNG")
    for file in (path, path.with_suffix(".json")):
        if file.exists() and not overwrite:
            raise FileExistsError(f"output: {file} is there already; give --overwrite, or another --output")
    if like is None and (smooth or symmetric or hole_free):
        raise ValueError(
            "smooth, symmetric and hole-free are of a mask given by --like; give one, or leave them out"
        )
    if like is not None and rectangle is not None:
        raise ValueError("like and rectangle: give one of them")
    if like is not None:
        source = load_mask(like, size)
        mask = reshaped(source, ratio, smooth, symmetric, hole_free)
        save_mask(
            mask, path, method="reshaped", like=mask_hash(source), smooth=smooth, symmetric=symmetric,
            hole_free=hole_free, ratio=list(ratio), version=version(),
        )  # fmt: skip
        made = f"like {mask_hash(source)[:12]}"
    elif rectangle is not None:
        mask = _box(rectangle, size)
        save_mask(mask, path, method="rectangle", rectangle=list(rectangle), version=version())
        made = f"rectangle {', '.join(map(str, rectangle))}"
    else:
        brush = Brush(min_vertex, max_vertex, max_length, max_brush_width, max_angle, strokes)
        if not -(2**63) <= seed < 2**63:
            raise ValueError(f"seed: {seed}; give a whole number of 64 bits")
        generator = torch.Generator().manual_seed(seed)
        mask = freeform_masks(1, size, ratio, **asdict(brush), generator=generator)[0]
        facts = asdict(brush)
        save_mask(mask, path, method="freeform", seed=seed, ratio=list(ratio), **facts, version=version())
        made = f"seed {seed}"
    back = load_mask(path, size)
    get_console().print(
        f"mask ratio {mask_ratio(back):.4f}, {size}×{size}, {made}, hash {mask_hash(back)[:12]}: {path}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _box(rectangle: tuple[int, int, int, int], size: int) -> Tensor:
    left, top, right, bottom = rectangle
    if not (0 <= left < right <= size and 0 <= top < bottom <= size):
        raise ValueError(
            f"rectangle {' '.join(map(str, rectangle))}: need 0 <= left < right <= {size} and 0 <= top < bottom "
            f"<= {size}, the size"
        )
    mask = torch.zeros(1, size, size)
    mask[:, top:bottom, left:right] = 1
    return mask
