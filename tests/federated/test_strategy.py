"""How updates are combined: the default is FedAvg bit for bit, and a strategy of one's own comes by class_path."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_app.federated.owner.client import model_hash
from lightning_app.federated.owner.link import LocalLink
from lightning_app.federated.protocol.aggregate import aggregate
from lightning_app.federated.protocol.messages import Update, Weights
from lightning_app.federated.protocol.strategy import FEDAVG, FedAvg, Strategy
from lightning_app.federated.server.run import Server
from tests.federated.test_aggregate import THREE
from tests.federated.tiny import Pretender, equal, federated, plan_and_parts, weights_of

MEDIAN = {"class_path": "tests.federated.test_strategy.Median", "init_args": {"lower": True}}


class Median(Strategy):
    """A toy: the middle one of the owners' values, whatever their images."""

    def __init__(self, lower: bool = True) -> None:
        assert lower

    def combine(self, updates: Sequence[Update], reference: Weights) -> Weights:
        return {
            name: torch.stack([update.weights[name] for update in updates]).median(0).values
            for name in reference
        }


class Broken(Strategy):
    """Loses a weight, or makes one infinite."""

    def __init__(self, lose: bool = True) -> None:
        self.lose = lose

    def combine(self, updates: Sequence[Update], reference: Weights) -> Weights:
        found = {name: value / 0 + 1 for name, value in reference.items()}
        if self.lose:
            found.popitem()
        return found


class InOrder(FedAvg):
    """Asserts what it is promised."""

    def combine(self, updates: Sequence[Update], reference: Weights) -> Weights:
        assert [update.client for update in updates] == sorted(update.client for update in updates)
        return super().combine(updates, reference)


def test_the_default_is_the_mean_by_images() -> None:
    found = FedAvg()(THREE, THREE[0].weights)
    assert equal(found, aggregate(THREE))
    assert equal(InOrder()(THREE[::-1], THREE[0].weights), found)
    assert isinstance(plan_and_parts()[1].combiner(), FedAvg)
    assert plan_and_parts()[1].strategy["class_path"] == FEDAVG["class_path"]


def served(run_dir: Path, **more: Any) -> tuple[Server, Weights]:
    """A round of three owners that add 1, 2 and 3 to every weight, and the weights before it."""
    plan, parts = plan_and_parts(rounds=1, max_update_norm=1e9, **more)
    server = Server(plan, parts, run_dir)
    before = weights_of(server)
    server.serve(LocalLink([Pretender(number, model_hash(server.model)) for number in range(3)]))
    return server, before


def test_a_strategy_by_class_path_end_to_end(tmp_path: Path) -> None:
    server, before = served(tmp_path / "median", strategy=MEDIAN)
    after = weights_of(server)
    for name, value in before.items():
        assert torch.equal(after[name], value + 1 + 1), name
    mean, before = served(tmp_path / "mean")
    after = weights_of(mean)
    for name, value in before.items():  # 8, 16 and 24 images
        torch.testing.assert_close(after[name], value + (1 * 8 + 2 * 16 + 3 * 24) / 48)


def test_owners_that_train(tmp_path: Path) -> None:
    """One owner's median is its weights, as its mean is; the owner is told nothing of the strategy."""
    alone: dict[str, Any] = {"clients": 1, "rounds": 1}
    median = federated(tmp_path / "median", strategy=MEDIAN, **alone)
    mean = federated(tmp_path / "mean", **alone)
    assert equal(weights_of(median), weights_of(mean))
    for key in ("client0/loss", "client0/drift", "hash"):
        assert median.rounds[0][key] == mean.rounds[0][key]


def test_another_strategy_is_another_run(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    served(run_dir, strategy=MEDIAN)
    again = yaml.safe_load((run_dir / "federate.yaml").read_text())
    assert again["strategy"] == MEDIAN
    assert "strategy" not in yaml.safe_load((run_dir / "config.yaml").read_text())
    plan, parts = plan_and_parts(rounds=1)
    with pytest.raises(ValueError, match=r"made with other settings \(strategy\.class_path is .*Median"):
        Server(plan, parts, run_dir)
    Server(*plan_and_parts(rounds=1, strategy=MEDIAN, max_update_norm=1e9), run_dir)


def test_a_run_of_before_is_the_means(tmp_path: Path) -> None:
    """Its record knows no strategy."""
    run_dir = tmp_path / "run"
    served(run_dir)
    record = next(
        path for path in run_dir.iterdir() if path.suffix == ".json" and "settings" in path.read_text()
    )
    made = json.loads(record.read_text())
    del made["settings"]["strategy"]
    record.write_text(json.dumps(made))
    Server(*plan_and_parts(rounds=1), run_dir)
    with pytest.raises(ValueError, match="made with other settings"):
        Server(*plan_and_parts(rounds=1, strategy=MEDIAN), run_dir)


@pytest.mark.parametrize(("lose", "words"), [(True, "is missing"), (False, "are NaN or infinite")])
def test_what_cannot_be_weights_is_told(tmp_path: Path, lose: bool, words: str) -> None:
    broken = {"class_path": "tests.federated.test_strategy.Broken", "init_args": {"lose": lose}}
    with pytest.raises(
        ValueError, match=f"strategy Broken: what it makes of the updates cannot be used: .*{words}"
    ):
        served(tmp_path / "run", strategy=broken)
