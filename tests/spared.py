"""What costs each of a thousand tiny runs some time and changes nothing in any.

A kill loses nothing of what was written, only a power cut does: `fsync` waits for no disk, but refuses a file that is
closed. The installed packages stay as they are, so their entry points, which Lightning looks for whenever it makes a
trainer, are read once.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from functools import cache
from typing import Any

_read = importlib.metadata.entry_points


def spare() -> None:
    """Spare it in this process and those forked off it; before Lightning is imported."""
    os.fsync = os.fstat  # type: ignore[assignment]
    importlib.metadata.entry_points = _entry_points


def _entry_points(**which: Any) -> Any:
    return _once(tuple(sys.path), tuple(sorted(which.items())))


@cache
def _once(paths: tuple[str, ...], which: tuple[tuple[str, Any], ...]) -> Any:
    return _read(**dict(which))
