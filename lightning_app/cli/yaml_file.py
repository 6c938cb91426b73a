"""A config file as YAML: what is wrong with its form is told by file and line, before anything reads its content."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is
_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
_NUMBER = "tag:yaml.org,2002:int"
_OF_CLASS = ("class_path", "init_args", "dict_kwargs")  # keys that jsonargparse takes
_NULL = "tag:yaml.org,2002:null"


def read_config_file(path: Path) -> dict[str, Any]:
    """Read a config file.

    A key that stands twice is refused: YAML would take the later one, and all that is under the earlier one would be
    lost without a word.

    Args:
        path: an existing file.

    Returns:
        What it holds, as plain values.

    Raises:
        ValueError: it is no UTF-8 text, no YAML, empty, no mapping, or a key is given twice or is no text, or an
            `init_args` is no mapping.
        OSError: it cannot be read.
    """
    node = compose_file(path)
    if not isinstance(node, yaml.MappingNode):
        found = "is empty" if node is None else f"holds {_kind(node)}"
        raise ValueError(f"{path} {found}: a config is a mapping, such as `trainer: {{max_epochs: 3}}`")
    for wrong in _wrong(node, set()):
        raise ValueError(f"{path}, line {wrong}")
    try:
        content: dict[str, Any] = yaml.SafeLoader("").construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(_no_yaml(path, error)) from error
    except ValueError as error:  # a date such as 2026-99-99
        raise ValueError(f"{path}: {error}") from error
    return content


def compose_file(path: Path) -> yaml.Node | None:
    """Return a file's YAML as nodes, which know their lines; None where it is empty.

    Args:
        path: an existing file.

    Raises:
        ValueError: it is no UTF-8 text, or no YAML.
        OSError: it cannot be read.
    """
    try:
        text = path.read_text("utf-8-sig") + "\n"
        with suppress(yaml.YAMLError):  # libyaml words it otherwise than the loader that is everywhere
            return yaml.compose(text, _FAST)
        return yaml.compose(text, yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from error
    except yaml.YAMLError as error:
        raise ValueError(_no_yaml(path, error)) from error
    except RecursionError as error:
        raise ValueError(f"{path}: is nested too deeply") from error


def line_of(node: yaml.Node | None, keys: list[str]) -> tuple[int, int, int]:
    """Find what stands under keys in a file; `init_args` between them may be left out.

    Args:
        node: of the whole file.
        keys: such as `["data", "reader", "size"]`.

    Returns:
        How many of the keys there are; the line of the last of these, and the last line of its value, both from 1.
    """
    depth, first, last = 0, 1, 1 if node is None else node.end_mark.line + 1
    for key in keys:
        if (found := _under(node, key)) is None:
            break
        name, node = found
        depth, first, last = depth + 1, name.start_mark.line + 1, node.end_mark.line + 1
        if isinstance(node, yaml.CollectionNode) and not node.flow_style:
            last = max(first, last - 1)  # a block ends where the next key begins: before that line
    return depth, first, last


def _under(node: yaml.Node | None, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    inner = None
    for name, value in node.value:
        if name.value == key:
            return name, value
        if name.value == "init_args":
            inner = value
    return None if inner is None else _under(inner, key)


def _wrong(node: yaml.Node, seen: set[int], top: bool = True) -> Iterator[str]:
    """Yield the number of a line and what is wrong there; `top` says whether the node is the whole file."""
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _wrong(item, seen, top=False)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    of_class = any(key.value == "class_path" for key, _ in node.value)
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.tag == _MERGE:
            continue
        number = isinstance(key, yaml.ScalarNode) and key.tag == _NUMBER  # such as an epoch, of a schedule
        if not isinstance(key, yaml.ScalarNode) or not (key.tag == _TEXT or (number and not top)):
            yield f"{line}: {getattr(key, 'value', key)!r} is no name of a key: keys are text"
        elif key.value in lines:
            yield f"{line}: {key.value!r} stands a second time, after line {lines[key.value]}: keep one of them"
        elif key.value == "init_args" and not isinstance(value, yaml.MappingNode):
            yield f"{line}: init_args is {_kind(value)}: it takes arguments, such as `init_args: {{size: 112}}`"
        elif of_class and key.value not in _OF_CLASS:
            meant = difflib.get_close_matches(key.value, _OF_CLASS, 1)
            hint = f"did you mean {meant[0]!r}?" if meant else "arguments stand under init_args"
            yield f"{line}: {key.value!r} stands beside class_path; {hint}"
        elif key.value == "class_path" and value.tag != _TEXT:
            yield f"{line}: class_path is {_kind(value)}: it takes a name, such as callbacks.LFWVerification"
        else:
            lines[key.value] = line
            yield from _wrong(value, seen, top=False)


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    return "null" if node.tag == _NULL else repr(str(node.value)[:40])


def _no_yaml(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    said = getattr(error, "problem", None) or str(error)
    if "'\\t'" in said or "cannot start any token" in said:
        said += " (YAML takes blanks before a key, no tabs)"
    where = "" if mark is None else f", line {mark.line + 1}"
    return f"{path}{where}: is no YAML: {' '.join(str(said).split())[:200]}"
