"""JSON that comes from outside: read so that nothing in it surprises whoever walks through it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from lightning_app.core.plain import LARGEST

_DEEPEST = 32  # levels; many more would exhaust the stack of whoever walks through them


def strict_json(content: bytes) -> Any:
    """Read JSON that somebody else may have crafted.

    Args:
        content: of the file.

    Raises:
        ValueError: it is none, a name stands twice in an object, a number is none that every reader takes for the
            same, or it is nested more than 32 levels deep.
    """
    try:
        found = json.loads(
            content,
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_number,
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    level = [found]
    for _ in range(_DEEPEST):
        level = [item for one in level for item in _items(one)]
        if not level:
            return found
    raise ValueError("it is nested too deeply")


def _items(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _integer(text: str) -> int:
    if len(text) > len(str(-LARGEST)) or abs(int(text)) > LARGEST:
        raise ValueError("it holds a number that is too large")
    return int(text)


def _number(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError("it holds a number that is not finite")
    return float(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands in it twice")
    return found
