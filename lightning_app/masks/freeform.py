"""Free-form masks: strokes of a brush that wanders, until the asked share of the image is hidden.

Strokes are kept in reference pixels, those of a 256×256 image, so that one list of strokes draws the same
shape at any size. They are drawn with OpenCV as 8-connected lines of whole-pixel width with round joints,
without anti-aliasing: every pixel is 0 or 1 as drawn, nothing is thresholded or dithered.

Source: Yu et al., "Free-Form Image Inpainting with Gated Convolution" (DeepFill v2), ICCV 2019, section 3.4
and the algorithm in its supplement; the paper's RMG(v0, v1, l, b, a) in Algorithm 1 names its five
parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from lightning_app.masks.bits import Array, Size, as_array, as_size, size_text

REFERENCE = 256  # side of the image that lengths, widths and positions are given for
_LONGEST = 10_000  # pixels of a 256×256 image: OpenCV counts in 32 bits
_NARROWEST = 0.3  # of max_brush_width: DeepFill v2 draws widths from 12 to 40
_MOST_STROKES = 3  # without an asked ratio, as DeepFill v2
_BUDGET = 4000  # strokes tried for one mask before giving up: under a second at 224 px
_PATIENCE = 20  # strokes in a row that overshoot before starting afresh

Side = Literal["hide", "reveal"]


@dataclass(frozen=True)
class Stroke:
    """One stroke of the brush, in reference pixels; every segment starts where the last ended.

    Attributes:
        start: (x, y) of the first vertex, each in [0, 256].
        angles: direction of each segment in degrees, 0 to the right, 90 down.
        lengths: length of each segment.
        width: of the brush.
    """

    start: tuple[float, float]
    angles: tuple[float, ...]
    lengths: tuple[float, ...]
    width: float


@dataclass(frozen=True)
class Brush:
    """The five hyper-parameters of the free-form generator, and which way its strokes count.

    Attributes:
        min_vertex: fewest segments of a stroke, at least 1.
        max_vertex: most segments of a stroke.
        max_length: longest segment, in pixels of a 256×256 image.
        max_brush_width: widest brush, in pixels of a 256×256 image; widths start at 0.3 of it.
        max_angle: largest turn of a segment in degrees, above 0, at most 360.
        strokes: whether strokes hide what they cover, or reveal it and all else is hidden.
    """

    min_vertex: int = 4
    max_vertex: int = 11
    max_length: float = 90.0
    max_brush_width: float = 40.0
    max_angle: float = 360.0
    strokes: Side = "hide"

    def __post_init__(self) -> None:
        if not 1 <= self.min_vertex <= self.max_vertex:
            raise ValueError(
                f"min_vertex {self.min_vertex}, max_vertex {self.max_vertex}: "
                "need 1 <= min_vertex <= max_vertex"
            )
        for name in ("max_length", "max_brush_width"):
            if not 0 < getattr(self, name) <= _LONGEST:
                raise ValueError(
                    f"{name}: {getattr(self, name)} is not a positive number of pixels, up to {_LONGEST:,}"
                )
        if not 0 < self.max_angle <= 360:
            raise ValueError(f"max_angle: {self.max_angle} is not in (0, 360] degrees")
        if self.strokes not in ("hide", "reveal"):
            raise ValueError(f"strokes: {self.strokes!r} is neither 'hide' nor 'reveal'")


def check_ratio(ratio: Sequence[float], name: str = "ratio") -> tuple[float, float]:
    """Read a range of mask ratios.

    Args:
        ratio: (low, high), both in [0,1], low below high.
        name: what the caller's user calls it.

    Raises:
        ValueError: if it is anything else.
    """
    pair = tuple(float(bound) for bound in ratio)
    if len(pair) != 2 or not 0 <= pair[0] < pair[1] <= 1:
        raise ValueError(f"{name}: {list(ratio)} is not a range (low, high) with 0 <= low < high <= 1")
    return pair[0], pair[1]


def draw_strokes(strokes: Sequence[Stroke], size: Size, side: Side = "hide") -> Tensor:
    """Draw strokes as a mask.

    Args:
        strokes: in reference pixels; vertices that leave the image are brought back to its edge. On an image
            that is not square, x and y scale with its sides, lengths and widths with its diagonal.
        size: side or (height, width) of the mask.
        side: `hide`: strokes are 0 on 1; `reveal`: strokes are 1 on 0.

    Returns:
        `[1,H,W]` float32, 1 = visible, 0 = hidden.

    Raises:
        ValueError: on a size that is none.
    """
    canvas: Array = np.zeros(as_size(size), dtype=np.uint8)
    for stroke in strokes:
        paint(canvas, stroke)
    return _to_mask(canvas, side)


def freeform_masks(
    count: int,
    size: Size,
    ratio: tuple[float, float] | None = (0.74, 0.78),
    min_vertex: int = 4,
    max_vertex: int = 11,
    max_length: float = 90.0,
    max_brush_width: float = 40.0,
    max_angle: float = 360.0,
    strokes: Side = "hide",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw free-form masks, each with a mask ratio in the asked range.

    Per stroke: the number of segments uniform from min_vertex to max_vertex, the start uniform on the image,
    the width uniform from 0.3 to 1 times max_brush_width; per segment: the length uniform up to max_length,
    the angle uniform up to max_angle, every other one negated (so that strokes zigzag), and the whole stroke
    mirrored at random in x and y (so that no corner is favoured). Strokes are added one at a time until the
    ratio enters the range; one that would overshoot is drawn again, and after 20 such in a row the mask is
    started afresh.

    Args:
        count: how many.
        size: side or (height, width).
        ratio: (low, high) of the mask ratio, both included; None takes 1 to 3 strokes, whatever they hide.
        min_vertex: fewest segments of a stroke.
        max_vertex: most segments of a stroke.
        max_length: longest segment, in pixels of a 256×256 image.
        max_brush_width: widest brush, in pixels of a 256×256 image.
        max_angle: largest angle in degrees.
        strokes: `hide` what they cover, or `reveal` it.
        generator: a CPU generator that all draws come from; None takes torch's default one.

    Returns:
        `[count,1,H,W]` float32, 1 = visible, 0 = hidden; never all hidden or all visible.

    Raises:
        ValueError: on parameters out of range, or where no mask in the range was found: it names the range,
            the strokes tried and the closest ratio reached.

    Source: see the module; ours are the asked range and the redrawing.
    """
    brush = Brush(min_vertex, max_vertex, max_length, max_brush_width, max_angle, strokes)
    _check_count(count)
    masks = [
        _to_mask(_sample(as_size(size), ratio, brush, generator, None)[1], strokes) for _ in range(count)
    ]
    return torch.stack(masks)


def freeform_strokes(
    count: int,
    size: Size,
    ratio: tuple[float, float] | None = (0.74, 0.78),
    brush: Brush | None = None,
    generator: torch.Generator | None = None,
    keep: Tensor | None = None,
) -> list[list[Stroke]]:
    """Draw the strokes of free-form masks: `draw_strokes` of each gives what `freeform_masks` would have.

    With pixels to keep (a critical template) it is the union max(mask, keep) whose ratio lies in the range,
    and that hides something but not everything; the strokes alone may hide more.

    Args:
        count: how many masks.
        size: the size their ratio is measured at.
        ratio: as for `freeform_masks`.
        brush: the five hyper-parameters and the side; None takes the defaults.
        generator: as for `freeform_masks`.
        keep: `[1,H,W]` or `[H,W]` of 0 and 1: the pixels, those of 1, that are visible whatever is drawn.

    Returns:
        One list of strokes per mask.

    Raises:
        ValueError: as `freeform_masks`, and where `keep` has another size or leaves too little to hide.

    Source: formula 5, read as a union (design, section 4).
    """
    _check_count(count)
    free = free_pixels(as_size(size), ratio, keep)
    return [_sample(as_size(size), ratio, brush or Brush(), generator, free)[0] for _ in range(count)]


def free_pixels(
    size: tuple[int, int], ratio: tuple[float, float] | None, keep: Tensor | None
) -> Array | None:
    """Return which pixels may be hidden, having checked that they are enough for a mask ratio.

    Args:
        size: (height, width) of the masks.
        ratio: (low, high) that is asked; None asks nothing.
        keep: `[1,H,W]` or `[H,W]` of 0 and 1, 1 = always visible; None keeps nothing.

    Returns:
        `[H,W]` uint8, 1 = may be hidden; None where `keep` is None.

    Raises:
        ValueError: `keep` has another size or other values, or leaves less to hide than `low`.
    """
    if keep is None:
        return None
    if keep.ndim not in (2, 3) or tuple(keep.shape[-2:]) != size:
        raise ValueError(
            f"template: shape {list(keep.shape)} does not fit masks of {size_text(size)} (height×width); "
            "make it at the images' size"
        )
    free: Array = 1 - as_array(keep)[0]
    largest = cv2.countNonZero(free) / free.size
    if largest == 0:
        raise ValueError(
            "template: keeps every pixel visible, so nothing can be hidden; raise its threshold T"
        )
    if ratio is not None and check_ratio(ratio)[0] > largest:
        raise ValueError(
            f"ratio: [{ratio[0]:g}, {ratio[1]:g}] is out of reach, the template keeps {1 - largest:.4f} of the "
            f"pixels visible and the largest mask ratio possible is {largest:.4f}; ask for less, or raise the "
            "template's threshold T"
        )
    return free


def _check_count(count: int) -> None:
    if count < 1:
        raise ValueError(f"count: {count} is not a positive number of masks")


def _to_mask(canvas: Array, side: Side) -> Tensor:
    painted = torch.from_numpy(canvas).to(torch.float32).unsqueeze(0)
    return 1 - painted if side == "hide" else painted


def paint(canvas: Array, stroke: Stroke) -> None:
    """Paint a stroke onto a canvas `[H,W]` uint8, in place: 1 where the brush came."""
    height, width = canvas.shape
    scale = math.hypot(height, width) / math.hypot(REFERENCE, REFERENCE)
    x, y = stroke.start[0] * width / REFERENCE, stroke.start[1] * height / REFERENCE
    brush = max(1, round(stroke.width * scale))
    here = (int(x), int(y))
    for angle, length in zip(stroke.angles, stroke.lengths, strict=True):
        x = min(max(x + length * scale * math.cos(math.radians(angle)), 0.0), float(width))
        y = min(max(y + length * scale * math.sin(math.radians(angle)), 0.0), float(height))
        there = (int(x), int(y))
        cv2.line(canvas, here, there, 1, brush)
        cv2.circle(canvas, there, brush // 2, 1, -1)
        here = there


def random_stroke(brush: Brush, generator: torch.Generator | None) -> Stroke:
    """Draw one stroke, as `freeform_masks` says."""
    # float64 uniforms only: torch's normals differ between CPUs with and without AVX2
    u = torch.rand(6 + 2 * brush.max_vertex, generator=generator, dtype=torch.float64).tolist()
    segments = brush.min_vertex + int(u[0] * (brush.max_vertex - brush.min_vertex + 1))
    angles = [brush.max_angle * value for value in u[6 : 6 + segments]]
    angles = [-angle if i % 2 == 0 else angle for i, angle in enumerate(angles)]
    if u[4] < 0.5:
        angles = [180 - angle for angle in angles]
    if u[5] < 0.5:
        angles = [-angle for angle in angles]
    lengths = u[6 + brush.max_vertex : 6 + brush.max_vertex + segments]
    return Stroke(
        start=(u[1] * REFERENCE, u[2] * REFERENCE),
        angles=tuple(angles),
        lengths=tuple(brush.max_length * value for value in lengths),
        width=brush.max_brush_width * (_NARROWEST + (1 - _NARROWEST) * u[3]),
    )


def painted_pixels(canvas: Array, free: Array | None) -> int:
    """Count the painted pixels among those that may be hidden (all, where `free` is None)."""
    return cv2.countNonZero(canvas if free is None else canvas & free)


def _sample(
    size: tuple[int, int],
    ratio: tuple[float, float] | None,
    brush: Brush,
    generator: torch.Generator | None,
    free: Array | None,
) -> tuple[list[Stroke], Array]:
    """Return strokes and the canvas they paint 1 on 0."""
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(
            f"generator: is on {generator.device}; masks are drawn on the CPU, give a CPU generator"
        )
    if ratio is None:
        return _sample_any(size, brush, generator, free)
    low, high = check_ratio(ratio)
    area = size[0] * size[1]
    total = area if free is None else cv2.countNonZero(free)  # what strokes can hide, or all but reveal
    canvas: Array = np.zeros(size, dtype=np.uint8)
    strokes: list[Stroke] = []
    covered, overshot, closest = 0, 0, math.inf
    for _ in range(_BUDGET):
        stroke = random_stroke(brush, generator)
        trial = canvas.copy()
        paint(trial, stroke)
        painted = painted_pixels(trial, free)
        hidden = painted if brush.strokes == "hide" else total - painted
        found = hidden / area
        inside = low <= found <= high
        if inside and 0 < hidden < area:
            return [*strokes, stroke], trial
        if _distance(found, low, high) < _distance(closest, low, high):
            closest = found
        too_far = inside or (found > high if brush.strokes == "hide" else found < low)
        if not too_far and painted > covered:
            canvas, covered, overshot = trial, painted, 0
            strokes.append(stroke)
        elif too_far:
            overshot += 1
            if overshot == _PATIENCE:
                canvas, covered, overshot, strokes = np.zeros(size, dtype=np.uint8), 0, 0, []
    raise ValueError(
        f"ratio: no mask of {size[0]}×{size[1]} with a mask ratio in [{low:g}, {high:g}] came of {_BUDGET} "
        f"tried strokes, the closest had {closest:.4f}; widen the range, or change max_brush_width "
        f"(now {brush.max_brush_width:g}) or max_length (now {brush.max_length:g})"
    )


def _distance(found: float, low: float, high: float) -> float:
    return max(low - found, found - high, 0.0)


def _sample_any(
    size: tuple[int, int], brush: Brush, generator: torch.Generator | None, free: Array | None
) -> tuple[list[Stroke], Array]:
    total = size[0] * size[1] if free is None else cv2.countNonZero(free)
    for _ in range(_BUDGET):
        many = 1 + int(torch.rand(1, generator=generator, dtype=torch.float64).item() * _MOST_STROKES)
        strokes = [random_stroke(brush, generator) for _ in range(many)]
        canvas: Array = np.zeros(size, dtype=np.uint8)
        for stroke in strokes:
            paint(canvas, stroke)
        painted = painted_pixels(canvas, free)
        if 0 < (painted if brush.strokes == "hide" else total - painted) < canvas.size:
            return strokes, canvas
    raise ValueError(
        f"max_brush_width: {brush.max_brush_width:g} covered every pixel of {size[0]}×{size[1]} in each of "
        f"{_BUDGET} tries; make it smaller"
    )
