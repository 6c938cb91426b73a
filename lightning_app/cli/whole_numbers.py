"""`--trainer.limit_train_batches 1` is one batch, and not 1.0, all of them: whole numbers are tried first."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, Union, get_args, get_origin


def try_whole_numbers_first(function: Callable[..., Any]) -> None:
    """Put `int` before `float` in a function's annotations.

    A parser tries the types of a union one after the other, and `typing` keeps one object for all unions of the same
    types: `Optional[Union[int, float]]` of Lightning is `Optional[Union[float, int]]` where another library (rich) has
    written that before, and every 1 is read as 1.0 then.

    Args:
        function: such as `Trainer.__init__`; what it wraps is changed as well.
    """
    while True:
        for name, annotation in function.__annotations__.items():
            function.__annotations__[name] = whole_first(annotation)
        if not hasattr(function, "__wrapped__"):
            return
        function = function.__wrapped__


def whole_first(annotation: Any) -> Any:
    """Return a union with `int` before `float`; anything else as it is.

    Args:
        annotation: of an argument.

    Example:
        >>> whole_first(float | int | None)
        int | float | None
    """
    parts = get_args(annotation)
    if get_origin(annotation) not in (Union, type(int | str)) or not {int, float} <= {*parts}:
        return annotation
    return functools.reduce(operator.or_, (int, *(part for part in parts if part is not int)))
