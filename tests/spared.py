"""What costs each of a thousand tiny runs some time and changes nothing in any.

A kill loses nothing of what was written, only a power cut does: `fsync` waits for no disk, but refuses a file that is
closed. The installed packages stay as they are, so their entry points, which Lightning looks for whenever it makes a
trainer, are read once. A frame of no file, such as runpy's, belongs to no module: `inspect` need not look through the
thousands that a warm process has imported, as torchrun's launcher has it do for every line of its log. Garbage is
looked for less often: Lightning and jsonargparse make containers by the hundred thousand.
"""

from __future__ import annotations

import gc
import importlib.metadata
import inspect
import os
import sys
from functools import cache
from types import FrameType, ModuleType
from typing import Any

_read = importlib.metadata.entry_points
_module_of = inspect.getmodule
_of_no_module: dict[str, int] = {}  # file of a frame → modules that were looked through


def spare() -> None:
    """Spare it in this process and those forked off it; before Lightning is imported."""
    os.fsync = os.fstat  # type: ignore[assignment]
    importlib.metadata.entry_points = _entry_points
    inspect.getmodule = _getmodule
    gc.set_threshold(10_000, 20, 20)


def keep_onnx_operators() -> None:
    """Let torch's exporter parse the functions it can translate to once, where it has been used at all."""
    registration = sys.modules.get("torch.onnx._internal.exporter._registration")
    apis: Any = getattr(registration, "onnxscript_apis", None)
    if apis is not None and not hasattr(apis.get_torchlib_ops, "cache_info"):
        apis.get_torchlib_ops = cache(apis.get_torchlib_ops)


def _entry_points(**which: Any) -> Any:
    return _once(tuple(sys.path), tuple(sorted(which.items())))


@cache
def _once(paths: tuple[str, ...], which: tuple[tuple[str, Any], ...]) -> Any:
    return _read(**dict(which))


def _getmodule(object: object, _filename: str | None = None) -> ModuleType | None:  # as inspect names them
    if not isinstance(object, FrameType):
        return _module_of(object, _filename)
    file, modules = object.f_code.co_filename, len(sys.modules)
    if file.startswith("<") or _of_no_module.get(file) == modules:
        return None
    found = _module_of(object, _filename)
    if found is None:
        _of_no_module[file] = modules
    return found
