"""Values of somebody else's JSON and YAML are counted before they are made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_app.core import foreign
from lightning_app.core.foreign import parse_json, parse_yaml, read_json, read_yaml


def as_bytes(text: str) -> bytes:
    return text.encode()


@pytest.mark.parametrize("item", ["{}", "[]", '{"a":0}', "[0]", "0", '""', '"\\","'])
@pytest.mark.parametrize("kind", [str, as_bytes])
def test_values_of_json_are_counted_before_they_are_made(
    item: str, kind: Callable[[str], str | bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three bytes of it made an object of a hundred, which was counted too late."""
    monkeypatch.setattr(foreign, "MOST_VALUES", 1000)
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(ValueError, match=r"^it: has more than 1000 values$"):
        parse_json(kind(f"[{','.join([item] * 1000)}]"), "it")


def test_what_stands_in_strings_of_json_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "MOST_VALUES", 1000)
    values = ['a "quoted", [long: {list}]\\', "\\" * 7, "\n,"] * 300
    assert parse_json(json.dumps(values), "it") == values
    assert parse_json("\ufeff[1, 2]".encode(), "it") == [1, 2], "as json.loads takes bytes"
    assert parse_json("[0" + ", 0" * 998 + "]", "it") == [0] * 999
    for odd in ('"' + "," * 2000, b"\xff"):
        with pytest.raises(ValueError, match=r"^it is not JSON"):
            parse_json(odd, "it")


def test_nodes_of_yaml_are_counted_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "_MOST_NODES", 100)
    made: list[yaml.Node] = []
    begin = yaml.ScalarNode.__init__

    def begun(self: yaml.ScalarNode, *args: Any, **more: Any) -> None:
        made.append(self)
        begin(self, *args, **more)

    monkeypatch.setattr(yaml.ScalarNode, "__init__", begun)
    with pytest.raises(ValueError, match=r"^its config: has more than 100 values$"):
        parse_yaml("- a\n" * 1000, "its config")
    assert len(made) == 99, "and the list"
    assert parse_yaml("- a\n" * 99, "its config") == ["a"] * 99


def test_a_list_is_no_longer_walked_through_than_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "MOST_VALUES", 10)
    walked = iter(range(10**6))

    class Walked(list[object]):
        def __iter__(self) -> Iterator[object]:
            return walked

    with pytest.raises(ValueError, match="its content: stands for more than 10 values"):
        foreign.check_plain(Walked(), "its content")
    assert next(walked) == 10


@pytest.mark.parametrize(("read", "size"), [(read_json, 16), (read_yaml, 1)])
def test_a_large_file_is_not_parsed(read: Callable[[Path], Any], size: int, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(10**10)  # sparse
    with pytest.raises(ValueError, match=rf"file: is larger than {size} MB, which no such file of ours is"):
        read(tmp_path / "file")
