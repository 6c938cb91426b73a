"""The server's side of Flower's grid: answers that cannot be read, and nodes that are silent."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, RecordDict

from lightning_app.federated.flower.apps import FlowerLink
from lightning_app.federated.protocol.messages import (
    Failure,
    Invitation,
    Joined,
    Late,
    Task,
    Unreached,
    Update,
)
from lightning_app.federated.protocol.wire import decode, encode

INVITATION = Invitation("0" * 16, 8, 1, True, 3, None, "abc")
TASK = Task("0" * 16, 1, "abc", {})


@pytest.fixture(autouse=True)
def _outside_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's own message asks in which run it is made."""

    def message(content: RecordDict, node: int, kind: str, *, ttl: float) -> SimpleNamespace:
        metadata = SimpleNamespace(dst_node_id=node, message_type=kind, ttl=ttl)
        return SimpleNamespace(content=content, metadata=metadata)

    monkeypatch.setattr("lightning_app.federated.flower.apps.Message", message)


class Grid:
    """Flower's grid over nodes that answer at once, or never (None)."""

    def __init__(self, answers: dict[int, RecordDict | None]) -> None:
        self.answers, self.asked, self.lives = answers, list[int](), list[float]()
        self.there: dict[str, Any] = {}
        self.gone: set[int] = set()  # between the look for nodes and the question

    def get_nodes(self) -> list[Any]:
        return [SimpleNamespace(node_id=node, name=f"owner-{node - 1}") for node in self.answers]

    def push_messages(self, messages: Iterable[Any]) -> list[str]:
        names = []
        for message in messages:
            node = message.metadata.dst_node_id
            self.asked.append(node)
            self.lives.append(message.metadata.ttl)
            names.append("" if node in self.gone else f"{len(self.lives)}")
            self.there[names[-1]] = self.answers[node]
        return names

    def pull_messages(self, names: Iterable[str]) -> list[Any]:
        found = [(name, self.there.pop(name)) for name in names if self.there.get(name) is not None]
        return [
            SimpleNamespace(
                content=content, has_error=lambda: False, metadata=SimpleNamespace(reply_to_message_id=name)
            )
            for name, content in found
        ]


def joined(number: int) -> RecordDict:
    return encode(Joined(number, 10, 6, "", "model", "abc"))


def link(grid: Grid, **more: Any) -> FlowerLink:
    settings: dict[str, Any] = {"clients": len(grid.answers), "wait": 600.0, "timeout": 0.06} | more
    return FlowerLink(grid, **settings)  # type: ignore[arg-type]


def test_a_silent_node_is_waited_for_as_long_as_a_round_and_ever_less_often() -> None:
    grid = Grid({1: joined(0), 2: None})
    flower = link(grid)
    members: set[int] = set()
    asked = []
    for _ in range(9):
        grid.asked.clear()
        given = list(flower.newcomers(INVITATION, members))
        members |= {one.client for one in given if isinstance(one, Joined)}
        asked.append(2 in grid.asked)
        silent = [one.reason for one in given if isinstance(one, Failure)]
        assert silent == (["no answer within timeout=0.06 s"] if asked[-1] else [])
    assert asked == [True, False, True, False, False, True, False, False, False]
    assert members == {0}
    grid.answers[2] = joined(1)
    assert not list(flower.newcomers(INVITATION, members))  # the last of 4
    assert [one.client for one in flower.newcomers(INVITATION, members)] == [1]


def update(number: int, round: int) -> RecordDict:
    return encode(Update(number, round, "abc", 8, 2, 1.0, 0.1, 1.0, {}))


@pytest.mark.parametrize(
    ("timeout", "least", "most"), [(90000.0, 90000, 90300), (None, 300 * 86400, 400 * 86400)]
)
def test_a_message_lives_as_long_as_its_answer_is_waited_for(
    timeout: float | None, least: float, most: float
) -> None:
    """Flower's own limit is 12 hours: 43,200 s."""
    grid = Grid({1: joined(0)})
    flower = link(grid, timeout=timeout)
    list(flower.newcomers(INVITATION, set()))
    grid.answers[1] = update(0, 1)
    (given,) = flower.train(TASK, {0})
    assert isinstance(given, Update)
    assert grid.lives[0] > 600  # of the invitation: `wait`
    assert least < grid.lives[1] < most


def test_a_late_answer_to_an_old_round_is_fetched_and_named(caplog: pytest.LogCaptureFixture) -> None:
    grid = Grid({1: joined(0), 2: joined(1)})
    flower = link(grid)
    list(flower.newcomers(INVITATION, set()))
    grid.answers = {1: update(0, 1), 2: None}
    first = {given.client: type(given) for given in flower.train(TASK, {0, 1})}
    assert first == {0: Update, 1: Late}
    grid.there["4"] = update(1, 1)  # node 2's answer to the question of before
    grid.answers = {1: update(0, 2), 2: update(1, 2)}
    with caplog.at_level(logging.WARNING, "faceveil"):
        second = list(flower.train(Task("0" * 16, 2, "abc", {}), {0, 1}))
    assert sorted((given.client, getattr(given, "round", None)) for given in second) == [(0, 2), (1, 2)]
    assert caplog.messages == ["owner 1: a stale answer, to round 1: it is not taken"]
    assert "4" not in grid.there  # the server holds it no more


def test_an_owner_at_another_node_joins_again_and_one_that_left_is_not_asked() -> None:
    grid = Grid({1: joined(0), 2: joined(1)})
    flower = link(grid, clients=2)
    list(flower.newcomers(INVITATION, set()))
    more = encode(Joined(1, 30, 6, "", "model", "abc"))
    grid.answers = {1: update(0, 1), 3: more}  # node 2 is gone, its owner is back at node 3
    assert [(given.client, given.images) for given in flower.newcomers(INVITATION, {0, 1})
            if isinstance(given, Joined)] == [(1, 30)]  # fmt: skip
    grid.gone = {3}
    found = {given.client: type(given) for given in flower.train(TASK, {0, 1, 2})}
    assert found == {0: Update, 1: Unreached, 2: Unreached}


def test_who_cannot_join_is_called_by_the_name_of_its_key() -> None:
    grid = Grid({1: encode(Failure("at node 1", "ValueError: another mask")), 2: joined(5), 3: joined(5)})
    found = [given for given in link(grid).newcomers(INVITATION, set()) if isinstance(given, Failure)]
    assert {(given.client, given.reason) for given in found} == {
        ("at node 1 (owner-0)", "ValueError: another mask"),
        ("at node 3 (owner-2)", "its number 5 is another owner's"),
    }


def with_shape(shape: str) -> RecordDict:
    content = encode(Update(0, 1, "abc", 8, 2, 1.0, 0.1, 1.0, {}))
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(4, np.float32))
    data = buffer.getvalue()
    there = b"(4,), }" + b" " * (len(shape) - 4)
    assert there in data
    data = data.replace(there, shape.encode() + b", }")
    content["weights"] = ArrayRecord({"float32": Array("float32", (4,), "numpy.ndarray", data)})
    return content


@pytest.mark.parametrize("shape", ["(True, 4)", "(-1, -4)", "(4.0,)", "(0, 18446744073709551616)"])
def test_a_hostile_shape_is_refused(shape: str) -> None:
    with pytest.raises(ValueError, match=r"float32 (is no numpy array|says it is)"):
        decode(with_shape(shape))


def test_whatever_an_answer_is_it_ends_no_round(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    grid = Grid({1: joined(0), 2: joined(1)})
    flower = link(grid)
    members = {one.client for one in flower.newcomers(INVITATION, set()) if isinstance(one, Joined)}
    grid.answers = {1: with_shape("(True, 4)"), 2: encode(Failure(9, "no\n" + "x" * 900))}
    first, second = sorted(flower.train(TASK, members), key=lambda one: one.client)
    assert isinstance(first, Failure)
    assert first.reason == "ValueError: float32 says it is (True, 4) of float32, and has 16 bytes"
    assert isinstance(second, Failure)
    assert (second.client, second.reason) == (1, "no " + "x" * 497)

    def unforeseen(content: RecordDict) -> None:
        raise TypeError("who knows")

    monkeypatch.setattr("lightning_app.federated.flower.apps.decode", unforeseen)
    with caplog.at_level(logging.WARNING, "faceveil"):
        reasons = {one.reason for one in flower.train(TASK, members) if isinstance(one, Failure)}
    assert reasons == {"TypeError: who knows"}
    assert "the answer of owner 0 cannot be read" in caplog.text
