"""Candidate masks of the search: drawn, mutated and crossed, each a pure function of (seed, number)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from lightning_app.core.draws import seed_from
from lightning_app.masks.bits import Array, Size, as_size, size_text
from lightning_app.masks.freeform import (
    REFERENCE,
    Brush,
    Side,
    Stroke,
    check_ratio,
    draw_strokes,
    free_pixels,
    freeform_strokes,
    paint,
    painted_pixels,
    random_stroke,
)

Range = tuple[float, float]
_DRAWN, _MUTATED, _CROSSED = 320, 321, 322  # salts: how a candidate came to be
_BRUSHES = 4  # brushes drawn for one candidate before giving up
_REPAIRS = 2000  # strokes tried for one repair before giving up
_PATIENCE = 20  # strokes in a row that overshoot before some are taken off
_CHANGED = 0.3  # share of strokes that a mutation jitters
_DROPPED = 0.15  # share it drops


@dataclass(frozen=True)
class BrushRange:
    """Ranges that each candidate's five hyper-parameters are drawn from, uniformly, both ends included.

    Attributes:
        min_vertex: fewest segments of a stroke, at least 1.
        max_vertex: most segments; never taken below the candidate's min_vertex.
        max_length: longest segment, in pixels of a 256×256 image.
        max_brush_width: widest brush, in pixels of a 256×256 image.
        max_angle: largest turn of a segment in degrees, above 0, at most 360.
        strokes: whether strokes hide what they cover, or reveal it; the same for all candidates.

    Raises:
        ValueError: a range is upside down, or one of its ends is no `Brush`.

    Source: Algorithm 1, "randomly generate v0, v1, l, b, a"; the ranges lie around DeepFill v2's values.
    """

    min_vertex: tuple[int, int] = (2, 6)
    max_vertex: tuple[int, int] = (6, 16)
    max_length: Range = (45.0, 135.0)
    max_brush_width: Range = (20.0, 60.0)
    max_angle: Range = (90.0, 360.0)
    strokes: Side = "hide"

    def __post_init__(self) -> None:
        for name in ("min_vertex", "max_vertex", "max_length", "max_brush_width", "max_angle"):
            ends = getattr(self, name)
            if len(ends) != 2 or not ends[0] <= ends[1]:
                raise ValueError(f"{name}: {list(ends)} is not a range (low, high) with low <= high")
        for end in (0, 1):
            Brush(
                self.min_vertex[end], max(self.min_vertex[end], self.max_vertex[end]), self.max_length[end],
                self.max_brush_width[end], self.max_angle[end], self.strokes,
            )  # fmt: skip

    def draw(self, generator: torch.Generator) -> Brush:
        """Draw one brush, from a CPU generator."""
        u = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
        fewest, most = _whole(self.min_vertex, u[0]), _whole(self.max_vertex, u[1])
        length, width, angle = (
            low + (high - low) * value
            for (low, high), value in zip(
                (self.max_length, self.max_brush_width, self.max_angle), u[2:], strict=True
            )
        )
        return Brush(fewest, max(fewest, most), length, width, angle, self.strokes)


@dataclass(frozen=True)
class Candidate:
    """A candidate mask as the strokes it is drawn from.

    Attributes:
        number: of the candidate in its search, from 0.
        brush: what its strokes were drawn with; of bred ones, the brush of the first parent.
        strokes: in the order drawn.
        parents: numbers of the candidates it was bred from; empty where drawn.
    """

    number: int
    brush: Brush
    strokes: tuple[Stroke, ...]
    parents: tuple[int, ...] = ()

    def mask(self, size: Size, template: Tensor | None = None) -> Tensor:
        """Draw the mask and its union with the template.

        Args:
            size: side or (height, width).
            template: `[1,H,W]` or `[H,W]` of 0 and 1, 1 = always visible.

        Returns:
            `[1,H,W]` float32, 1 = visible, 0 = hidden.

        Raises:
            ValueError: the template has another size.

        Source: formula 5, read as a union (design, section 4).
        """
        return united(draw_strokes(self.strokes, size, self.brush.strokes), template)

    def to_dict(self) -> dict[str, object]:
        """Return number, parents, brush and strokes in JSON's types; `Stroke(**one)` of each makes them again."""
        return {
            "number": self.number,
            "parents": list(self.parents),
            "brush": asdict(self.brush),
            "strokes": [
                asdict(stroke) | {k: list(getattr(stroke, k)) for k in ("start", "angles", "lengths")}
                for stroke in self.strokes
            ],
        }


def united(mask: Tensor, template: Tensor | None) -> Tensor:
    """Return max(mask, template).

    Args:
        mask: `[1,H,W]` or `[N,1,H,W]`, 1 = visible, 0 = hidden.
        template: `[1,H,W]` or `[H,W]` of 0 and 1; None changes nothing.

    Raises:
        ValueError: the two differ in size.

    Source: formula 5 (design, section 4).
    """
    if template is None:
        return mask
    size = (int(mask.shape[-2]), int(mask.shape[-1]))
    if tuple(template.shape[-2:]) != size:
        raise ValueError(
            f"template: is {size_text(tuple(template.shape[-2:]))}, the mask {size_text(size)} (height×width); "
            "make it at the images' size"
        )
    return torch.maximum(mask, template.reshape(1, *size).to(mask))


def drawn_candidate(
    number: int,
    seed: int,
    size: Size,
    ratio: Range | None,
    brushes: BrushRange | None = None,
    template: Tensor | None = None,
) -> Candidate:
    """Draw a candidate: a brush from the ranges, then strokes until the union's ratio lies in the range.

    Where a brush does not reach the range in its tries another one is drawn, up to four.

    Args:
        number: of the candidate; with the seed it decides everything.
        seed: of the search.
        size: side or (height, width) that the ratio is measured at.
        ratio: (low, high) of the mask ratio of max(mask, template), both included; None takes any.
        brushes: ranges of the five hyper-parameters; None takes the defaults.
        template: `[1,H,W]` of 0 and 1, 1 = always visible.

    Raises:
        ValueError: the range is out of reach.

    Source: Algorithm 1, stage I.
    """
    free_pixels(as_size(size), ratio, template)  # what no brush can mend is said at once
    generator = _generator(_DRAWN, seed, number)
    brushes = brushes or BrushRange()
    for attempt in range(_BRUSHES):
        brush = brushes.draw(generator)
        try:
            strokes = freeform_strokes(1, size, ratio, brush, generator, template)[0]
        except ValueError as error:
            if attempt == _BRUSHES - 1:
                raise ValueError(
                    f"candidate {number}: none of {_BRUSHES} brushes will do; {error}"
                ) from error
        else:
            return Candidate(number, brush, tuple(strokes))
    raise AssertionError("unreachable")


def mutate(
    parent: Candidate,
    number: int,
    seed: int,
    size: Size,
    ratio: Range,
    template: Tensor | None = None,
) -> Candidate:
    """Change a candidate a little: jitter some strokes, drop a few, perhaps add one, then repair the ratio.

    Args:
        parent: the candidate.
        number: of the new one; with the seed and the parent it decides everything.
        seed: of the search.
        size: as for `drawn_candidate`.
        ratio: (low, high) of the mask ratio of max(mask, template), both included.
        template: `[1,H,W]` of 0 and 1, 1 = always visible.

    Raises:
        ValueError: the range is out of reach.
    """
    generator = _generator(_MUTATED, seed, number)
    draws = torch.rand(len(parent.strokes), 2, generator=generator, dtype=torch.float64).tolist()
    chosen = int(torch.rand(1, generator=generator, dtype=torch.float64).item() * len(draws))
    kept = [  # the chosen one changes in any case, so that no child is its parent
        _jittered(stroke, generator) if change < _CHANGED or i == chosen else stroke
        for i, (stroke, (change, drop)) in enumerate(zip(parent.strokes, draws, strict=True))
        if drop >= _DROPPED or i == chosen
    ]
    if torch.rand(1, generator=generator, dtype=torch.float64).item() < 0.5:
        kept.insert(0, random_stroke(parent.brush, generator))
    strokes = _repaired(kept, as_size(size), ratio, parent.brush, generator, template)
    return Candidate(number, parent.brush, strokes, (parent.number,))


def cross(
    a: Candidate,
    b: Candidate,
    number: int,
    seed: int,
    size: Size,
    ratio: Range,
    template: Tensor | None = None,
) -> Candidate:
    """Mix the strokes of two candidates, each stroke taken with probability ½, then repair the ratio.

    Args:
        a: one parent, whose brush draws what the repair adds.
        b: the other.
        number: of the new one; with the seed and the parents it decides everything.
        seed: of the search.
        size: as for `drawn_candidate`.
        ratio: (low, high) of the mask ratio of max(mask, template), both included.
        template: `[1,H,W]` of 0 and 1, 1 = always visible.

    Raises:
        ValueError: the parents' strokes count in different ways, or the range is out of reach.
    """
    if a.brush.strokes != b.brush.strokes:
        raise ValueError(f"strokes: {a.brush.strokes!r} and {b.brush.strokes!r} cannot be crossed; use one")
    generator = _generator(_CROSSED, seed, number)
    pool = [*a.strokes, *b.strokes]
    order = torch.rand(2, len(pool), generator=generator, dtype=torch.float64)
    mixed = [pool[i] for i in order[0].argsort().tolist() if order[1, i] < 0.5]
    strokes = _repaired(mixed, as_size(size), ratio, a.brush, generator, template)
    return Candidate(number, a.brush, strokes, (a.number, b.number))


def _whole(ends: tuple[int, int], u: float) -> int:
    return ends[0] + int(u * (ends[1] - ends[0] + 1))


def _generator(*keys: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_from(*keys))


def _jittered(stroke: Stroke, generator: torch.Generator) -> Stroke:
    """Move the start by up to 16 reference pixels, turn by up to 30°, scale lengths and width by 0.7 … 1.3."""
    u = (2 * torch.rand(3 + 2 * len(stroke.angles), generator=generator, dtype=torch.float64) - 1).tolist()
    x, y = (min(max(at + 16 * d, 0.0), float(REFERENCE)) for at, d in zip(stroke.start, u[:2], strict=True))
    turns, stretches = u[3 : 3 + len(stroke.angles)], u[3 + len(stroke.angles) :]
    return replace(
        stroke,
        start=(x, y),
        angles=tuple(angle + 30 * d for angle, d in zip(stroke.angles, turns, strict=True)),
        lengths=tuple(length * (1 + 0.3 * d) for length, d in zip(stroke.lengths, stretches, strict=True)),
        width=stroke.width * (1 + 0.3 * u[2]),
    )


def _repaired(
    strokes: Sequence[Stroke],
    size: tuple[int, int],
    ratio: Range,
    brush: Brush,
    generator: torch.Generator,
    template: Tensor | None,
) -> tuple[Stroke, ...]:
    """Take the strokes that do not overshoot the range, in order, and add drawn ones until it is reached."""
    low, high = check_ratio(ratio)
    free = free_pixels(size, ratio, template)
    area = size[0] * size[1]
    total = area if free is None else cv2.countNonZero(free)
    # what strokes reveal is hidden no more, so the range of painted pixels is the other end's
    ends = (low * area, high * area) if brush.strokes == "hide" else (total - high * area, total - low * area)
    blank = (0, area) if brush.strokes == "hide" else (total - area, total)  # masks of these ratios are none
    least, most = max(ends[0], blank[0] + 1), min(ends[1], blank[1] - 1)
    canvas: Array = np.zeros(size, dtype=np.uint8)
    kept: list[Stroke] = []
    covered = overshot = 0
    removed = 1
    proposals = list(strokes)
    for tried in range(len(proposals) + _REPAIRS):
        proposed = tried < len(proposals)
        if not proposed and least <= covered <= most:
            return tuple(kept)
        stroke = proposals[tried] if proposed else random_stroke(brush, generator)
        trial = canvas.copy()
        paint(trial, stroke)
        painted = painted_pixels(trial, free)
        if painted > most:
            overshot += not proposed
        elif painted > covered:
            canvas, covered, overshot = trial, painted, 0
            kept.append(stroke)
        if overshot == _PATIENCE:  # too little room is left for this brush: make more of it, ever more
            kept, overshot, removed = kept[:-removed], 0, 2 * removed
            canvas = np.zeros(size, dtype=np.uint8)
            for stroke in kept:
                paint(canvas, stroke)
            covered = painted_pixels(canvas, free)
    raise ValueError(
        f"ratio: strokes of max_brush_width {brush.max_brush_width:g} did not come into [{low:g}, {high:g}] in "
        f"{_REPAIRS} tries; widen the range, or make max_brush_width smaller"
    )
