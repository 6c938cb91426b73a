"""What a desensitizer was made with, as a hash: so that one whose class describes nothing else is told from another."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
from collections.abc import Callable
from typing import Any

from torch import Tensor

_GIVEN = "_given"  # in the instance's dict; written before `nn.Module.__init__` has run
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def remembering(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap a class's `__init__` so that an instance keeps a hash of its arguments; the outermost class's count.

    Args:
        init: `__init__` of a class.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def made(self: Any, *args: Any, **more: Any) -> None:
        if _GIVEN not in vars(self):
            vars(self)[_GIVEN] = ""  # an __init__ that calls the base's is not asked again
            try:
                bound = signature.bind(self, *args, **more)
            except TypeError:  # which the call below says in Python's own words
                bound = None
            if bound is not None:
                bound.apply_defaults()
                own, *_ = bound.arguments
                vars(self)[_GIVEN] = _hash(
                    {name: one for name, one in bound.arguments.items() if name != own}
                )
        init(self, *args, **more)

    return made


def given_hash(made: object) -> str:
    """Return 16 hex digits of what an instance was made with; empty where it takes nothing, or that is not known.

    Args:
        made: of a class whose `__init__` is `remembering`.
    """
    return str(vars(made).get(_GIVEN, ""))


def _hash(arguments: dict[str, Any]) -> str:
    told = {
        name: value
        for name, value in arguments.items()
        if not (isinstance(value, tuple | dict) and not value)
    }
    if not told:
        return ""
    # 3 and 3.0 are one number, which a config may spell in both ways
    numbers = {name: float(value) for name, value in told.items() if type(value) is int}
    text = json.dumps(told | numbers, sort_keys=True, default=_told)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _told(value: object) -> object:
    if isinstance(value, Tensor):
        return [str(value.dtype), value.tolist()]
    describe = getattr(value, "describe", None)
    if callable(describe):  # another desensitizer
        return describe()
    return _ADDRESS.sub("", repr(value))
