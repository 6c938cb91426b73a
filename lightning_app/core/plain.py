"""Checks of plain JSON values: numbers in a range, shares, hashes. What passes has no room for anything else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

LARGEST = 1 << 53  # up to here integers are the same in every JSON reader
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RATIO_DECIMALS = 4  # of a range of mask ratios

Check = Callable[[Any], bool]
Schema = Mapping[str, tuple[Check, str]]  # entry -> its check, and in words what it must be


def is_count(value: object, least: int = 0, most: int = LARGEST) -> bool:
    """Return whether a value is a whole number in a range; True and 3.0 are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_hash(value: object) -> bool:
    """Return whether a value is a SHA-256, 64 hexadecimal digits."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def is_share(value: object) -> bool:
    """Return whether a value is a fraction in (0,1); 1 and True are none."""
    return isinstance(value, float) and 0 < value < 1


def is_number(value: object, above: float, most: float, decimals: int | None) -> bool:
    """Return whether a value is a number in (above, most] of so few decimals; a whole one may be written as one."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not above < value <= most:
        return False
    return decimals is None or round(value, decimals) == value


def is_range(value: object) -> bool:
    """Return whether a value is a range of mask ratios, [low, high] in [0,1]."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(is_number(bound, -1, 1, _RATIO_DECIMALS) and bound >= 0 for bound in value)
        and value[0] < value[1]
    )


def listed(value: Any) -> Any:
    """Return a tuple as the list that JSON, YAML and a checkpoint make of it; all else as it is."""
    return list(value) if isinstance(value, tuple) else value


def canonical(value: object) -> str:
    """Return a JSON value as text that tells 1, 1.0 and true apart; the order of keys does not count."""
    return json.dumps(value, sort_keys=True, allow_nan=False)


def short_json(value: object) -> str:
    """Return a JSON value as text of 40 characters at most, for messages."""
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:36] + " …"
