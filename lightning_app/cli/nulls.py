"""`null` and lists on the command line, such as `--data.reader.init_args.crop=null` or `--trainer.callbacks=[…]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from lightning_app.cli.places import FILES


class NestedNulls(ArgumentParser):
    """A parser that takes a nested `null` for one, and a list of classes for the whole of it.

    jsonargparse reads a null, and hands it to the parser of the inner class, which is of the same class, as text:
    the null as `None`, which is no null there. Of two lists of one length it merges the items (4.53): here a list
    replaces an earlier one, whatever its length, as in config files (`lightning_app.cli.configs.forget_lists`).
    """

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **more: Any) -> Any:  # type: ignore[override]
        """Parse arguments; `--KEY=None` is a null."""
        given = [_null(arg) for arg in (sys.argv[1:] if args is None else args)]
        with FILES.reading():
            return super().parse_args([*_fresh_lists(given)], *rest, **more)


def _null(arg: str) -> str:
    return f"{arg.removesuffix('None')}null" if arg.startswith("--") and arg.endswith("=None") else arg


def _fresh_lists(args: Sequence[str]) -> Iterator[str]:
    """Put `--KEY=[]` before every list of classes: an earlier list is empty then, and nothing of it is merged."""
    for arg, following in zip_longest(args, args[1:], fillvalue=""):  # args are longer by one
        key, equals, value = arg.partition("=")
        if key.startswith("--") and not key.endswith("+") and _is_classes(value if equals else following):
            yield f"{key}=[]"
        yield arg


def _is_classes(value: str) -> bool:
    if not value.startswith("["):
        return False
    try:
        items = yaml.safe_load(value)
    except yaml.YAMLError:
        return False  # the parser says what is wrong with it
    return isinstance(items, list) and any(isinstance(item, dict) and "class_path" in item for item in items)
