"""`null` on the command line for an argument of a class within a class, such as `--data.reader.init_args.crop=null`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser


class NestedNulls(ArgumentParser):
    """A parser that takes a nested `null` for one.

    jsonargparse reads the value, and hands it to the parser of the inner class, which is of the same class, as text:
    the null as `None`, which is no null there (4.53).
    """

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **more: Any) -> Any:  # type: ignore[override]
        """Parse arguments; `--KEY=None` is a null."""
        given = None if args is None else [_null(arg) for arg in args]
        return super().parse_args(given, *rest, **more)


def _null(arg: str) -> str:
    return f"{arg.removesuffix('None')}null" if arg.startswith("--") and arg.endswith("=None") else arg
