"""What manifests of version 1 said of `MaskOut`'s masks beside what they are: read still, written no more."""

from __future__ import annotations

from lightning_app.core.plain import Schema, is_count, is_number, is_range

_DECIMALS = 3  # of a parameter in pixels
_MOST_LEVELS = 16


def drawn_entries() -> Schema:
    """Return what version 1 said of a free-form mask."""
    return {
        "freeform": (is_range, "a range of mask ratios"),
        "count": (lambda v: is_count(v, 1, 1), "1"),
        "seed": (is_count, "a whole number"),
        "brush": (_brush, "a brush"),
        "draw": (lambda v: v in ("batch", "image"), "batch or image"),
    }


def chosen_entries() -> Schema:
    """Return what version 1 said of the only mask of a folder."""
    return {
        "levels": (
            lambda v: v is None or (isinstance(v, list) and len(v) <= _MOST_LEVELS and all(map(is_range, v))),
            "null or ranges of mask ratios",
        ),
        "hidden": (lambda v: v in ("white", "black"), "white or black"),
        "draw": (lambda v: v in ("batch", "image"), "batch or image"),
    }


_BRUSH: Schema = {
    "min_vertex": (lambda v: is_count(v, 1, 100), ""),
    "max_vertex": (lambda v: is_count(v, 1, 100), ""),
    "max_length": (lambda v: is_number(v, 0, 1000, _DECIMALS), ""),
    "max_brush_width": (lambda v: is_number(v, 0, 1000, _DECIMALS), ""),
    "max_angle": (lambda v: is_number(v, 0, 360, _DECIMALS), ""),
    "strokes": (lambda v: v in ("hide", "reveal"), ""),
}


def _brush(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == _BRUSH.keys() and all(
        check(value[key]) for key, (check, _) in _BRUSH.items()
    )  # fmt: skip
