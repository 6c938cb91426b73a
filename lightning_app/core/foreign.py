"""YAML, JSON and plain values that somebody else may have written: bounded before anybody walks through them.

A few kilobytes can stand for more than any memory holds: aliases of aliases in YAML, one list that a pickle names
a million times, brackets nested deeper than Python's stack. Files that come with a checkpoint are read here. Values are
counted before they are made, as three bytes of text make an object of a hundred.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from lightning_app.core.files import read_bounded

MOST_VALUES = 1_000_000  # with every alias written out
DEEPEST = 64  # levels of lists and mappings
_MOST_YAML, _MOST_JSON = 1 << 20, 16 << 20  # bytes of a file; YAML is parsed in Python, slowly
_MOST_NODES = 100_000  # of YAML, aliases counted once; each takes a kilobyte until its value is made
# what begins a container, or tells a value from the next; of strings only where they begin and end
_MARKS = re.compile(r'[\[{,:"]|\\.', re.DOTALL)
_MOST_BITS = 1000  # of an integer; a float takes 1024
_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file without trusting whoever wrote it.

    Args:
        path: an existing file.

    Returns:
        Plain values.

    Raises:
        ValueError: it is no YAML of plain values (tags such as `!!python/…` and merge keys `<<` are none), is too
            large or too deep once its aliases are written out, or holds itself.
        OSError: it cannot be read.
    """
    return parse_yaml(_text(Path(path), _MOST_YAML), str(path))


def parse_yaml(text: str, what: str) -> Any:
    """Read YAML as `read_yaml` does.

    Args:
        text: the YAML.
        what: to call it in the message.

    Raises:
        ValueError: see `read_yaml`.
    """
    loader = _Counting(text, what)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _bounded(node, _inside_node, what)
        found = loader.construct_document(node)
        check_plain(found, what)
        return found
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2026-99-99 is a ValueError
        if str(error).startswith(what):
            raise
        raise ValueError(
            f"{what} is no YAML of plain values ({' '.join(str(error).split())[:200]})"
        ) from error
    except RecursionError as error:
        raise ValueError(f"{what}: is nested more than {DEEPEST} levels deep") from error
    finally:
        loader.dispose()


def read_json(path: str | Path) -> Any:
    """Read a JSON file without trusting whoever wrote it.

    Args:
        path: an existing file.

    Raises:
        ValueError: it is no JSON, too large or nested too deeply.
        OSError: it cannot be read.
    """
    return parse_json(_text(Path(path), _MOST_JSON), str(path))


def parse_json(text: str | bytes, what: str) -> Any:
    """Read JSON as `read_json` does.

    Args:
        text: the JSON.
        what: to call it in the message.

    Raises:
        ValueError: see `read_json`.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text), "surrogatepass")  # as `json.loads` does
        many = _has_many(text)
        found = None if many else json.loads(text)
    except ValueError as error:
        raise ValueError(f"{what} is not JSON ({error})") from error
    except RecursionError as error:
        raise ValueError(f"{what}: is nested more than {DEEPEST} levels deep") from error
    if many:
        raise ValueError(f"{what}: has more than {MOST_VALUES} values")
    _bounded(found, _inside_value, what, shared=False)
    return found


class _Counting(yaml.SafeLoader):
    """A loader that makes no more nodes than a config of ours has."""

    def __init__(self, text: str, what: str) -> None:
        super().__init__(text)
        self.what, self.nodes = what, 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Count a node, and make it."""
        self.nodes += 1
        if self.nodes > _MOST_NODES:
            raise ValueError(f"{self.what}: has more than {_MOST_NODES} values")
        return super().compose_node(parent, index)


def _has_many(text: str) -> bool:
    """Return whether JSON has more than `MOST_VALUES` values: one more at most than it has marks outside of strings."""
    if sum(map(text.count, "[{,:")) < MOST_VALUES:
        return False
    count, within = 0, False
    for mark in _MARKS.finditer(text):
        if mark[0] == '"':
            within = not within
        elif not within and mark[0] in "[{,:":
            count += 1
            if count >= MOST_VALUES:
                return True
    return False


def check_plain(value: object, what: str) -> None:
    """Refuse values that stand for more than they take, or that lie deeper than whoever walks through them can go.

    Args:
        value: mappings, lists, tuples and sets of anything; one may stand in several places.
        what: to call it in the message.

    Raises:
        ValueError: more than `MOST_VALUES` with every place counted, more than `DEEPEST` levels, a number that no float
            is near, or it holds itself.
    """
    _bounded(value, _inside_value, what)


def _bounded(
    top: object, inside: Callable[[Any], Iterable[object] | None], what: str, shared: bool = True
) -> None:
    found: dict[int, tuple[int, int]] = {}  # id → values in it, levels of it; every place of it counts
    above: set[int] = set()
    too_deep = f"{what}: is nested more than {DEEPEST} levels deep"

    def measure(one: object, depth: int) -> tuple[int, int]:
        items = inside(one)
        if items is None:
            if isinstance(one, int) and one.bit_length() > _MOST_BITS:
                raise ValueError(f"{what}: holds a number of {one.bit_length()} bits")
            return 1, 0
        if id(one) in above:
            raise ValueError(f"{what}: holds itself")
        count, height = found.get(id(one), (0, 0))
        if not count:
            if depth > DEEPEST:
                raise ValueError(too_deep)
            above.add(id(one))
            count, height = 1, 1
            for item in items:
                within, levels = measure(item, depth + 1)
                count, height = count + within, max(height, 1 + levels)
                if count > MOST_VALUES:
                    raise ValueError(
                        f"{what}: stands for more than {MOST_VALUES} values once its aliases are written out"
                    )
            above.remove(id(one))
            if shared:
                found[id(one)] = count, height
        if depth + height > DEEPEST + 1:
            raise ValueError(too_deep)
        return count, height

    measure(top, 0)


def _inside_value(one: object) -> Iterable[object] | None:
    if isinstance(one, dict):
        return chain(one, one.values())
    return one if isinstance(one, (list, tuple, set, frozenset)) else None


def _inside_node(one: yaml.Node) -> Iterable[object] | None:
    if isinstance(one, yaml.MappingNode):
        if any(key.tag == _MERGE for key, _ in one.value):
            raise ValueError("a merge key << stands in it")
        return chain.from_iterable(one.value)
    return one.value if isinstance(one, yaml.SequenceNode) else None


def _text(path: Path, most: int) -> str:
    content = read_bounded(path, most)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error})") from error
