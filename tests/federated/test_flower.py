"""The whole thing through Flower's engine: the only test that starts Ray."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("flwr")
pytest.importorskip("ray")

from lightning_app.federated.flower.apps import simulate
from lightning_app.federated.server.run import Server
from tests.federated.tiny import federated, plan_and_parts

pytestmark = pytest.mark.slow


def test_owners_of_the_simulation_are_no_nicer_than_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At Ray's own niceness of 15 they stand still beside any other work; a user's choice is kept."""
    import flwr.simulation

    key, found = "RAY_worker_niceness", list[str]()
    monkeypatch.setattr(flwr.simulation, "run_simulation", lambda **_: found.append(os.environ[key]))
    plan, parts = plan_and_parts(engine="flower")
    for given in (None, "5"):
        with monkeypatch.context() as patched:
            patched.setenv(key, given or "")
            if given is None:
                patched.delenv(key)
            simulate(plan, parts, tmp_path, lambda link: None)
    assert found == ["0", "5"]


def test_flowers_engine_gives_the_weights_of_the_local_one(tmp_path: Path) -> None:
    """Three owners of different people; two rounds."""
    more = {"real": True, "partition": "identities", "model": {"schedule": "one_cycle"}}
    plan, parts = plan_and_parts(engine="flower", **more)
    server = Server(plan, parts, tmp_path / "flower")
    simulate(plan, parts, tmp_path / "flower" / "clients", server.serve)
    local = federated(tmp_path / "local", **more)
    assert [r["hash"] for r in server.rounds] == [r["hash"] for r in local.rounds]
    assert [r["clients"] for r in server.rounds] == [3, 3]
