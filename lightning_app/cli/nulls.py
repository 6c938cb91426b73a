"""`null` and lists on the command line, such as `--data.reader.init_args.crop=null` or `--trainer.callbacks=[…]`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace

from lightning_app.cli.parse_error import imported
from lightning_app.cli.places import FILES


class NestedNulls(ArgumentParser):
    """A parser that takes a nested `null` for one, and a list of classes for the whole of it.

    jsonargparse reads a null, and hands it to the parser of the inner class, which is of the same class, as text:
    the null as `None`, which is no null there. Of two lists of one length it merges the items (4.53): here a list
    replaces an earlier one, whatever its length, as in config files (`lightning_app.cli.configs.forget_lists`).
    """

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **more: Any) -> Any:  # type: ignore[override]
        """Parse arguments; `--KEY=None` is a null, and what is typed wins over every config, wherever it stands."""
        given = [_null(arg) for arg in configs_first(sys.argv[1:] if args is None else args)]
        with FILES.reading():
            found = super().parse_args([*_fresh_lists(given)], *rest, **more)
            for wrong in refused_nulls(found):
                self.error(wrong)
        return found


def configs_first(args: Sequence[str]) -> list[str]:
    """Put the configs of a command line before its options, in the order in which they stand.

    jsonargparse (4.53) applies both in the order of the command line: without this, the seed of
    `fit --seed_everything 2 --config NAME.yaml` would be the config's, without a word.

    Args:
        args: of a command line, the command's name first where there is one.
    """
    configs, others = list[str](), list[str]()
    rest = iter(args)
    for arg in rest:
        if arg in ("--config", "-c"):
            configs += [arg, *(value for value in [next(rest, None)] if value is not None)]
        else:
            (configs if arg.startswith("--config=") else others).append(arg)
    command = [others.pop(0)] if others and not others[0].startswith("-") else []
    return [*command, *configs, *others]


def refused_nulls(found: object, path: str = "") -> Iterator[str]:
    """Find the nulls that the arguments of classes do not take: jsonargparse lets every null pass (4.53).

    Args:
        found: parsed arguments, or a part of them.
        path: keys above it.

    Yields:
        What is wrong, as jsonargparse words it: the key in a line, the reason below.
    """
    if isinstance(found, list):
        for item in found:
            yield from refused_nulls(item, path)
    if not isinstance(found, Namespace):
        return
    inner, owner = found.get("init_args"), found.get("class_path")
    if isinstance(inner, Namespace) and isinstance(owner, str):
        for key, default in _never_null(owner).items():
            if key in inner and inner[key] is None:
                yield (
                    f'Parser key "{path.strip(".")}.{key}":\n  null is no value for it; leave the key out for its '
                    f"default, {default!r}"
                )
        yield from refused_nulls(inner, path)
        return
    for key, value in vars(found).items():
        yield from refused_nulls(value, f"{path}.{key}")


def _never_null(class_path: str) -> dict[str, object]:
    """Return the defaults of a class's arguments whose type has no null; of the bases' arguments too."""
    found = imported(class_path)
    arguments: dict[str, object] = {}
    for base in reversed(found.__mro__) if isinstance(found, type) else ():
        made = vars(base).get("__init__")
        if base is object or made is None:
            continue
        try:
            hints = get_type_hints(made)
        except (NameError, TypeError):  # names that are there for a type checker alone
            hints = {}
        for name, one in inspect.signature(made).parameters.items():
            arguments.pop(name, None)
            if one.default not in (None, one.empty) and _without_null(hints.get(name)):
                arguments[name] = one.default
    return arguments


def _without_null(hint: object) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return all(_without_null(one) for one in get_args(hint))
    return hint in (int, float, str, bool) or get_origin(hint) in (Literal, tuple, list, dict)


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
