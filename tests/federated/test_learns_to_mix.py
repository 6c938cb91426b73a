"""A federation that learns how much to mix: every owner has a strategy of its own, which stays with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lightning_app.core.key_file import make_key
from lightning_app.federated.owner.client import Client
from lightning_app.federated.protocol.messages import Invitation, Task
from lightning_app.federated.protocol.weights import travelling, weights_hash
from lightning_app.models.ada_mixup import LearnsToMix
from tests.federated.tiny import Tiny, federated, plan_and_parts, weights_of


class TinyLearner(LearnsToMix, Tiny):
    """The tiny recogniser, with a strategy."""


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    make_key(tmp_path / "owner.key")
    mixing = {"k": [2, 3, 4], "key": str(tmp_path / "owner.key")}
    return {
        "model": {"strategy_width": 8, "momentum": 0.9},
        "data": {
            "desensitizer": {"class_path": "lightning_app.desensitize.RandomMixUp", "init_args": mixing}
        },
        "real": False,
    }


@pytest.fixture(autouse=True)
def _learner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.federated.tiny.Tiny", TinyLearner)  # which the plan names


def test_strategies_stay_with_their_owners(tmp_path: Path, settings: dict[str, Any]) -> None:
    server = federated(tmp_path / "run", **settings)
    assert isinstance(server.model, TinyLearner)
    assert server.model.strategy is None
    assert set(weights_of(server)) == set(travelling(Tiny(num_classes=6, input_size=32), False))
    kept = sorted((tmp_path / "run").glob("clients/*/*/own-00002.safetensors"))
    assert len(kept) == 3
    states = [load_file(path) for path in kept]
    assert all(int(state["batches"]) == 2 * 2 for state in states)  # two rounds of two batches
    weights = [state["network.choose.weight"] for state in states]
    assert not torch.equal(weights[0], weights[1])
    for path in (tmp_path / "run").rglob("*.ckpt"):
        assert b"mix_strategy" not in path.read_bytes()


def test_an_owner_goes_on_with_its_strategy_whatever_process_it_is(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    plan, parts = plan_and_parts(**settings, rounds=3)
    invitation = Invitation("0" * 16, 3, 1, False, 0, None, "")
    went = Client(plan, parts, 1, tmp_path / "went")
    went.join(invitation)
    weights = travelling(went._make(invitation)[0], True)  # any weights but the head's
    model, module = went._made or pytest.fail("not joined")
    from lightning_app.federated.owner.client import new_head

    model.head = new_head(model, module.num_classes, parts.seed)
    weights = travelling(model, False)
    tasks = [Task("0" * 16, number, went._mask_hash, weights) for number in (1, 2)]
    went.train(tasks[0])
    again = Client(plan, parts, 1, tmp_path / "went").train(tasks[1])  # another process would do so
    kept = load_file(tmp_path / "went" / ("0" * 16) / "own-00002.safetensors")
    assert int(kept["batches"]) == 4
    there = went.train(tasks[1])  # and so does the one that was there, asked again
    assert weights_hash(again.weights) == weights_hash(there.weights)
    same = load_file(tmp_path / "went" / ("0" * 16) / "own-00002.safetensors")
    assert all(torch.equal(value, same[name]) for name, value in kept.items())
    # one that lost its strategy begins anew, and draws other k
    for path in (tmp_path / "went").rglob("own-*.safetensors"):
        path.unlink()
    went.train(tasks[1])
    assert int(load_file(tmp_path / "went" / ("0" * 16) / "own-00002.safetensors")["batches"]) == 2
