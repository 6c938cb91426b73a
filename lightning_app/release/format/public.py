"""What a manifest says of others: of the method, without the owner's names, and of the packages that made it."""

from __future__ import annotations

import platform
import re
import zlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version as installed
from typing import Any

from lightning_app.core.plain import is_count
from lightning_app.core.version import version
from lightning_app.release.format.schema import plain_version

_FILE_KEYS = ("mask", "folder", "file", "path", "root", "checkpoint", "ckpt_path")
_FILE_LIKE = re.compile(r"[/\\]|\.[A-Za-z0-9]{2,12}$")


def guard_of(method: Mapping[str, object]) -> int:
    """Return by how many pixels a method narrows what its mask shows; 0 where its description tells none.

    Args:
        method: as a manifest has it, see `public_method`.
    """
    guard = method.get("guard", 0)
    return guard if isinstance(guard, int) and is_count(guard) else 0


def public_method(description: Mapping[str, object]) -> dict[str, Any]:
    """Take out of a desensitizer's description what names a file or folder of the owner's.

    Args:
        description: what `Desensitizer.describe` gives.

    Returns:
        The rest: entries that are text and are called as files are, or look like one, are left out.
    """
    kept: dict[str, Any] = {}
    for key, value in description.items():
        if isinstance(value, Mapping):
            kept[key] = public_method(value)
        elif isinstance(value, list) and all(isinstance(one, Mapping) for one in value):  # of a chain's steps
            kept[key] = [public_method(one) for one in value]
        elif not (isinstance(value, str) and (key in _FILE_KEYS or _FILE_LIKE.search(value))):
            kept[key] = value
    return kept


def made_with() -> dict[str, str]:
    """Return the versions of what decodes, desensitizes and encodes images, for the manifest."""
    return dict(_installed())


@cache
def _installed() -> Mapping[str, str]:
    found = {"faceveil": version(), "python": platform.python_version(), "zlib": zlib.ZLIB_RUNTIME_VERSION}
    found |= {name: installed(name) for name in ("torch", "torchvision", "pillow", "numpy")}
    return {name: plain_version(text) for name, text in found.items()}
