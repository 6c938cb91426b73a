"""YAML, JSON and plain values that somebody else may have written: bounded before anybody walks through them.

A few kilobytes can stand for more than any memory holds: aliases of aliases in YAML, one list that a pickle names
a million times, brackets nested deeper than Python's stack. Files that come with a checkpoint are read here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

MOST_VALUES = 1_000_000  # with every alias written out
DEEPEST = 64  # levels of lists and mappings
_MOST_YAML, _MOST_JSON = 4 << 20, 64 << 20  # bytes of a file; YAML is parsed in Python, slowly
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
    loader = yaml.SafeLoader(text)
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
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{what} is not JSON ({error})") from error
    except RecursionError as error:
        raise ValueError(f"{what}: is nested more than {DEEPEST} levels deep") from error
    check_plain(found, what)
    return found


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


def _bounded(top: object, inside: Callable[[Any], Iterable[object] | None], what: str) -> None:
    found: dict[int, tuple[int, int]] = {}  # id → values in it, levels of it; every place of it counts
    above: set[int] = set()

    def measure(one: object, depth: int) -> tuple[int, int]:
        items = inside(one)
        if items is None:
            if isinstance(one, int) and one.bit_length() > _MOST_BITS:
                raise ValueError(f"{what}: holds a number of {one.bit_length()} bits")
            return 1, 0
        if id(one) in above:
            raise ValueError(f"{what}: holds itself")
        if id(one) not in found:
            if depth > DEEPEST:
                raise ValueError(f"{what}: is nested more than {DEEPEST} levels deep")
            above.add(id(one))
            parts = [measure(item, depth + 1) for item in items]
            above.remove(id(one))
            found[id(one)] = 1 + sum(n for n, _ in parts), 1 + max((height for _, height in parts), default=0)
        count, height = found[id(one)]
        if depth + height > DEEPEST + 1:
            raise ValueError(f"{what}: is nested more than {DEEPEST} levels deep")
        if count > MOST_VALUES:
            raise ValueError(
                f"{what}: stands for more than {MOST_VALUES} values once its aliases are written out"
            )
        return count, height

    measure(top, 0)


def _inside_value(one: object) -> Iterable[object] | None:
    if isinstance(one, dict):
        return [*one.keys(), *one.values()]
    return one if isinstance(one, (list, tuple, set, frozenset)) else None


def _inside_node(one: yaml.Node) -> Iterable[object] | None:
    if isinstance(one, yaml.MappingNode):
        if any(key.tag == _MERGE for key, _ in one.value):
            raise ValueError("a merge key << stands in it")
        return [part for pair in one.value for part in pair]
    return one.value if isinstance(one, yaml.SequenceNode) else None


def _text(path: Path, most: int) -> str:
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path}: is larger than {most >> 20} MB, which no such file of ours is")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error})") from error
