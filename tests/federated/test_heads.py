"""Heads of somebody else's in a federation: shared ones travel, private ones stay, and both go on after a stop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lightning_app.federated.server.run import Server
from lightning_app.models.checkpoints import read_recogniser
from lightning_app.models.known import trusting
from lightning_app.networks import ArcFaceHead
from lightning_app.networks.heads import NoHead
from tests.federated.tiny import federated, plan_and_parts, weights_of
from tests.networks.test_heads import ToyHead

HEAD = {"class_path": "tests.networks.test_heads.ToyHead", "init_args": {"scale": 3.0}}
TRUSTED = [HEAD["class_path"], "tests.federated.tiny.Tiny"]


def test_a_shared_head_travels_and_is_read_again(tmp_path: Path) -> None:
    server = federated(tmp_path, model={"head": HEAD}, rounds=1)
    assert isinstance(server.model.head, ToyHead)
    assert (server.model.head.num_classes, server.model.head.scale) == (6, 3.0)
    assert "head.weight" in weights_of(server)
    plan, parts = plan_and_parts(model={"head": HEAD}, rounds=1)
    again = Server(plan, parts, tmp_path)
    assert isinstance(again.model.head, ToyHead)
    assert torch.equal(again.model.head.weight, server.model.head.weight)
    with pytest.raises(ValueError, match="none of FaceVeil's"):
        read_recogniser(tmp_path)
    with trusting([str(name) for name in TRUSTED]):
        model, _ = read_recogniser(tmp_path)
    assert isinstance(model.head, ToyHead)
    other = plan_and_parts(model={"head": HEAD | {"init_args": {"scale": 4.0}}}, rounds=1)
    with pytest.raises(ValueError, match=r"was made with other settings \(model\.init_args\.head"):
        Server(*other, tmp_path)


def test_private_heads_stay_with_their_owners(tmp_path: Path) -> None:
    server = federated(tmp_path, model={"head": HEAD}, partition="identities", rounds=2)
    assert isinstance(server.model.head, NoHead)
    assert not any(name.startswith("head.") for name in weights_of(server))
    kept = sorted(tmp_path.glob("clients/*/*/head-00002.safetensors"))
    assert len(kept) == 3
    assert all(list(load_file(path)) == ["weight"] for path in kept)


def test_a_margin_rises_over_all_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(ArcFaceHead, "at", lambda self, progress: seen.append(progress))
    head = {"class_path": "lightning_app.networks.ArcFaceHead", "init_args": {"s": 16.0, "ramp": 0.5}}
    server = federated(tmp_path, model={"head": head}, rounds=2)
    assert isinstance(server.model.head, ArcFaceHead)
    assert seen[0] == 0
    second = seen[seen.index(0.5) :]  # of two rounds, the second begins where half of the run is done
    assert 0 < len(second) < len(seen)
    assert all(progress >= 0.5 for progress in second)
    assert max(seen[: -len(second)]) < 0.5
    assert 0.5 < max(second) < 1
