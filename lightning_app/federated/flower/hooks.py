"""Flower's own hooks are fewer than a careful owner needs: how a function of it is replaced, or the start refused."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def replace_in_flower(module: str, name: str, by: Callable[..., Any]) -> None:
    """Replace a function of Flower in this process.

    Args:
        module: of Flower.
        name: of the function in it.
        by: what takes its place.

    Raises:
        RuntimeError: this Flower has no such function, so that the guard would be none.
    """
    found = import_module(module)
    if not callable(getattr(found, name, None)):
        raise RuntimeError(
            f"this Flower has no {module}.{name}: FaceVeil's guard is written for 1.41, pip install "
            "'faceveil[federated]'"
        )
    setattr(found, name, by)
