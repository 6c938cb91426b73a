"""No owner takes the server down with absurd figures, classes or reasons, and no damaged file loses the rounds."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_app.federated.owner.client import model_hash
from lightning_app.federated.owner.link import LocalLink
from lightning_app.federated.protocol.aggregate import drifts, refusal
from lightning_app.federated.protocol.messages import Failure, Update, one_line
from lightning_app.federated.server.record import write_rounds
from lightning_app.federated.server.run import Server
from lightning_app.federated.server.state import last_round
from tests.federated.tiny import CLASSES, Pretender, plan_and_parts, spoilt

HUGE = 2**62
START = {"w": torch.zeros(4), "bn.running_var": torch.ones(4)}
GOOD = Update(
    0, 1, "mask", 8, 2, 1.0, 0.1, 1.0, {"w": torch.full((4,), 1.5), "bn.running_var": torch.ones(4)}
)


def served(run_dir: Path, *changed: Pretender, **more: Any) -> Server:
    plan, parts = plan_and_parts(**more)
    server = Server(plan, parts, run_dir)
    three = {number: Pretender(number) for number in range(plan.clients)} | {p.number: p for p in changed}
    for pretender in three.values():
        pretender.model = model_hash(server.model)
    server.serve(LocalLink(list(three.values())))
    return server


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"loss": 1.7e308}, "loss=1.7e+308 is not within -1e+06 to 1e+06"),
        ({"loss": float("nan")}, "loss=nan is not"),
        ({"lr": float("inf")}, "lr=inf is not within 0 to 1000"),
        ({"seconds": -1.0}, "seconds=-1 is not within 0 to 1e+08"),
        ({"batches": 2**63 - 1}, "batches=9.22337e+18 is not within 1 to 1e+09"),
        ({"batches": 9}, "it says it saw 9 batches of 8 images"),
        ({"images": HUGE}, "images=4.61169e+18 is not within 1 to 1e+12"),
        ({"images": 17}, "it says it saw 17 images: it joined with 16 for a round"),
        (
            {"weights": START | {"w": torch.full((4,), 3e38)}},
            "its update has the norm 6e+38, above max_update_norm=5",
        ),
        ({"weights": START | {"bn.running_var": torch.full((4,), 9.0)}}, "its update has the norm 16, above"),
    ],
)
def test_absurd_updates_are_refused(changes: dict[str, Any], reason: str) -> None:
    assert refusal(GOOD, START, 1, "mask", 16, 5.0) is None
    assert refusal(replace(GOOD, lr=float("nan")), START, 1, "mask") is None  # a model that logs none
    assert (refusal(replace(GOOD, **changes), START, 1, "mask", 16, 5.0) or "").startswith(reason)


def test_far_away_weights_have_a_finite_drift() -> None:
    far = {name: torch.full((4,), 3e38) for name in START}
    start = {name: -value for name, value in far.items()}
    found = drifts(start, [replace(GOOD, weights=far)], far)[0]
    assert found.norm == pytest.approx(1.2e39)
    assert found.norm_with_statistics == pytest.approx(1.2e39 * 2**0.5)
    assert found.cosine == pytest.approx(1)


def test_an_absurd_owner_is_left_out_and_the_rounds_go_on(tmp_path: Path) -> None:
    greedy = Pretender(1, spoil=spoilt(images=HUGE, batches=2**62))
    long = Pretender(2, spoil=lambda update: update if update.round == 1 else _moved(update, 1e30))
    server = served(tmp_path, greedy, long, min_clients=1, max_update_norm=1e4)
    assert [record["clients"] for record in server.rounds] == [2, 1]
    assert "images=4.61169e+18 is not" in server.rounds[0]["client1/refused"]
    assert "above max_update_norm=10000" in server.rounds[1]["client2/refused"]
    assert 0 < server.rounds[0]["client0/drift"] <= server.rounds[0]["client0/norm"] < 1e4
    counted = server.model.state_dict()["backbone.bn1.num_batches_tracked"]
    assert int(counted) == 6


def _moved(update: Update, far: float) -> Update:
    return replace(update, weights={name: value + far for name, value in update.weights.items()})


def test_more_images_than_it_joined_with(tmp_path: Path) -> None:
    server = served(tmp_path, Pretender(0, spoil=spoilt(images=17)), min_clients=1, local_epochs=2)
    assert server.rounds[0]["client0/refused"].startswith("it says it saw 17 images: it joined with 16")
    assert server.rounds[0]["images"] == 16 + 24


@pytest.mark.filterwarnings("ignore:overflow encountered")  # matplotlib's, on its way to the error
def test_a_figure_that_cannot_be_drawn_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The record is one that a server without bounds had kept."""
    rounds = [
        {"round": n, "client0/loss": loss, "client0/drift": 1.0} for n, loss in ((1, 1.0), (2, 1.7e308))
    ]
    with caplog.at_level(logging.WARNING, "faceveil"):
        assert write_rounds(tmp_path, rounds) is None
    assert "rounds.png is not drawn" in caplog.text
    assert "1.7e+308" in (tmp_path / "rounds.csv").read_text()


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"identities": 2**50}, f"identities={2**50} is not within 1 to 10000000"),
        ({"identities": -1}, "identities=-1 is not within 1 to 10000000"),
        ({"images": 2**62}, f"images={2**62} is not within 1 to 1000000000"),
        ({"classes_hash": "\n[red]"}, "its classes_hash is no hash"),
        ({"identities": 7}, "other classes (7, the federation's 6"),
        ({"classes_hash": "f" * 64}, "other classes (6, the federation's 6, or their names differ)"),
    ],
)
def test_a_first_owner_with_absurd_or_other_classes(
    claims: dict[str, Any], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server knows the classes: its own set's."""
    with caplog.at_level(logging.WARNING, "faceveil"):
        server = served(tmp_path, Pretender(0, claims=claims), rounds=1)
    assert f"owner 0 cannot join: {reason}" in caplog.text
    assert server.rounds[0]["clients"] == 2
    assert server.classes == (6, CLASSES)


@pytest.mark.parametrize(
    ("given", "classes"), [([7, 6, 6], 6), ([6, 7, 7], 7), ([10**6, 6, -1], 6), ([2**50, 9, 9], 9)]
)
def test_where_nobody_knows_the_classes_most_owners_decide(
    given: list[int], classes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    liars = [Pretender(number, claims={"identities": count}) for number, count in enumerate(given)]
    with caplog.at_level(logging.WARNING, "faceveil"):
        server = served(tmp_path, *liars, partition="own", private_heads=False, rounds=1, min_clients=1)
    assert server.model.head.num_classes == classes
    assert server.rounds[0]["clients"] == given.count(classes)
    assert len([line for line in caplog.messages if "cannot join" in line]) == 3 - given.count(classes)


def test_a_reason_is_one_printable_line() -> None:
    reason = Failure(1, "one\ntwo \x1b[31m\u202e three" + "x" * 10**6).reason
    assert reason.startswith("one two ?[31m? threexxx")
    assert len(reason) == 500
    assert one_line(ValueError("a\nb")) == "ValueError: a b"


def test_a_damaged_last_checkpoint_falls_back_to_the_newest_whole_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = served(tmp_path, rounds=3)
    folder = tmp_path / "checkpoints"
    last, newest = folder / "last.ckpt", folder / "round-00003.ckpt"
    assert last.read_bytes() == newest.read_bytes()
    assert not os.path.samefile(last, newest)  # damage to one leaves the other
    last.write_bytes(last.read_bytes()[:-100])
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    newest.write_bytes(damaged)
    with caplog.at_level(logging.WARNING, "faceveil"):
        again = served(tmp_path, rounds=3)
    assert "last.ckpt: the file is truncated" in caplog.text
    assert "round-00003.ckpt: the file is damaged" in caplog.text
    assert "taking round-00002.ckpt" in caplog.text
    assert [record["hash"] for record in again.rounds] == [record["hash"] for record in whole.rounds]
    last.unlink()
    found = last_round(tmp_path)
    assert found is not None
    assert found["federated"]["round"] == 3
    for path in folder.iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"has no whole round left \(last.ckpt: missing; round-00003"):
        last_round(tmp_path)


def test_a_round_is_on_the_disk_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    own = os.fsync

    def fsync(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        own(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    served(tmp_path, rounds=1)
    for name in ("last.ckpt", "round-00001.ckpt", "."):
        assert (tmp_path / "checkpoints" / name).stat().st_ino in synced
