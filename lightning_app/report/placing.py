"""Where ticks and labels stand in a picture of points."""

from __future__ import annotations

import math
from collections.abc import Sequence

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


def bounds(low: float, high: float, least: float = 1.0) -> tuple[float, float, list[float]]:
    """Choose the range of an axis and its ticks: a little beyond the data, ticks at round numbers.

    Args:
        low: of the data.
        high: of the data.
        least: the smallest range.

    Returns:
        Low and high of the axis, and its ticks.

    Example:
        >>> bounds(52.0, 88.0)
        (48.4, 91.6, [50.0, 60.0, 70.0, 80.0, 90.0])
    """
    middle, half = (low + high) / 2, max(high - low, least) / 2
    low, high = middle - 1.2 * half, middle + 1.2 * half
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    ticks = [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]
    return round(low, 6), round(high, 6), ticks


def place_labels(
    anchors: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], inside: Box,
    avoid: Sequence[Box] = (),
) -> list[tuple[float, float]]:  # fmt: skip
    """Put a label beside each point so that labels cover neither each other nor points nor error bars.

    Args:
        anchors: points in pixels, y downwards.
        sizes: (width, height) of each label.
        inside: where labels must lie.
        avoid: boxes that labels should leave free.

    Returns:
        Left and top of each label. Greedy, point by point: of many places near the point the one that covers
        least, the nearest of those.
    """
    # a label may cross a thin error bar rather than stray from its point
    taken = [(box, 0.2) for box in avoid] + [((x - 6, y - 6, x + 6, y + 6), 1.0) for x, y in anchors]
    placed = []
    for (x, y), (w, h) in zip(anchors, sizes, strict=True):
        reach = (x - w - 60, y - h - 60, x + w + 60, y + h + 60)  # no spot lies farther off
        close = [(other, weight) for other, weight in taken if _shared(reach, other)]

        def cost(at: tuple[float, float], x: float = x, y: float = y, w: float = w, h: float = h,
                 close: Sequence[tuple[Box, float]] = tuple(close)) -> float:  # fmt: skip
            box = (at[0], at[1], at[0] + w, at[1] + h)
            out = max(0, inside[0] - box[0]) + max(0, inside[1] - box[1])
            out += max(0, box[2] - inside[2]) + max(0, box[3] - inside[3])
            near = math.hypot((box[0] + box[2]) / 2 - x, 1.5 * ((box[1] + box[3]) / 2 - y))
            covered = sum(weight * _shared(box, other) for other, weight in close)
            return 200 * out + covered + 0.4 * near

        spots = [
            (left, top)
            for gap in (8, 18, 30, 44)
            for left in (x + gap, x - gap - w, x - w / 2)
            for top in (y - h - gap, y - h / 2, y + gap, y - h - gap / 3, y + gap / 3)
            if not (left == x - w / 2 and top == y - h / 2)
        ]
        best = min(spots, key=cost)
        placed.append(best)
        taken.append(((best[0], best[1], best[0] + w, best[1] + h), 1.0))
    return placed


def _shared(a: Box, b: Box) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0
