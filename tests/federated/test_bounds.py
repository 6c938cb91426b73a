"""No owner takes the mean over, by a long update or the images it says it saw; no healthy one is left out."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_app.federated.owner.client import model_hash
from lightning_app.federated.owner.link import LocalLink
from lightning_app.federated.protocol.bounds import BESIDE, LONGEST, counts, middle, overcounted, overlong
from lightning_app.federated.protocol.messages import Update
from lightning_app.federated.server.run import Server
from tests.federated.tiny import Pretender, federated, plan_and_parts, spoilt, weights_of

START = {"w": torch.full((4,), 0.5)}  # of norm 1


def going(*norms: float, batches: tuple[int, ...] = (), images: tuple[int, ...] = ()) -> list[Update]:
    return [
        Update(
            number, 1, "", images[number] if images else 8, batches[number] if batches else 2, 1.0, 0.1, 1.0,
            {"w": START["w"] + norm / 2},
        )
        for number, norm in enumerate(norms)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("norms", "left_out"),
    [
        ((1.0, 1.0, 9.9), []),
        ((1.0, 1.0, 10.1), [2]),
        ((1.0, 2.0, 3.0), []),
        ((0.0, 1.0, 1.0), []),  # who sends nothing has nobody left out
        ((1e-9, 1e-9, 1e-4), []),  # however short the others': this does no harm
        ((1e-9, 1e-9, 1e-2), [2]),
        ((0.0, 0.0, 1.0, 1.0, 1.0), []),
        ((50.0, 50.0, 1.0, 1.0, 1.0), [0, 1]),
        ((99.0, 1.0), []),  # of two nobody can tell which is wrong
        ((101.0, 1.0), [0]),
        ((101.0,), [0]),
        ((1e30, 101.0, 100.5), [0, 1, 2]),
    ],
)
def test_an_update_that_is_too_long(norms: tuple[float, ...], left_out: list[int]) -> None:
    for scale in (1.0, 1e-3, 1e6):  # of the network: no limit hangs on it
        start = {"w": START["w"] * scale}
        updates = [
            replace(update, weights={"w": start["w"] + (update.weights["w"] - START["w"]) * scale})
            for update in going(*norms)
        ]
        assert sorted(overlong(updates, start)) == left_out


def test_who_trains_longer_may_go_further() -> None:
    updates = going(1.0, 1.0, 150.0, batches=(2, 2, 40))
    assert overlong(updates, {"w": START["w"] * 10}) == {}
    more = overlong(going(1.0, 1.0, 50.0, batches=(2, 2, 4)), START)
    assert more == {2: "its update is 50 long, above 20 times the middle one of the others', 1 "
                       "(max_update_norm takes its place)"}  # fmt: skip


def test_variances_count_by_their_roots() -> None:
    """For some steps of a healthy run they are ten thousand times as large; a million times is none."""
    start = START | {"bn.running_var": torch.ones(4)}
    for variance, left_out in ((1e4, []), (1e6, [0])):
        update = replace(going(0.0)[0], weights=START | {"bn.running_var": torch.full((4,), variance)})
        assert list(overlong([update], start)) == left_out


def test_a_variance_far_below_0_counts_by_its_size() -> None:
    """In the mean it is clamped to 0, and everybody's variances with it."""
    start = START | {"bn.running_var": torch.ones(4)}
    healthy = [replace(one, weights=start) for one in going(*[0.0] * 9)]
    evil = replace(going(0.0)[0], client=9, weights=START | {"bn.running_var": torch.full((4,), -1e30)})
    assert list(overlong([*healthy, evil], start)) == [9]
    noisy = replace(evil, weights=START | {"bn.running_var": torch.full((4,), -1e-6)})
    assert list(overlong([noisy], start)) == []


def test_a_claim_of_many_batches_lifts_no_limit() -> None:
    updates = going(1e-4, 1e-4, 0.2, batches=(2, 2, 10**6), images=(8, 8, 10**6))
    assert list(overlong(updates, START)) == [2]
    assert overlong(going(1e-4, 1e-4, 0.09, batches=(2, 2, 10**6)), START) == {}


def test_counts_are_bounded_by_the_others_and_by_earlier_rounds() -> None:
    updates = going(1.0, 1.0, 1.0, images=(8, 16, 10**12))
    assert counts(updates, 10.0) == {0: 8, 1: 16, 2: 160}
    assert counts(updates, math.inf) == {0: 8, 1: 16, 2: 10**12}
    assert counts(updates[2:], 10.0) == {2: 10**12}  # alone it is the mean
    assert counts(going(1.0, 1.0, 1.0, images=(100, 900, 500)), 10.0) == {0: 100, 1: 900, 2: 500}
    assert list(overcounted(updates, 10.0, {})) == [2]
    assert overcounted(updates, math.inf, {2: 8}) == {}
    assert overcounted(going(1.0, images=(80,)), 10.0, {0: 8}) == {}
    assert overcounted(going(1.0, images=(81,)), 10.0, {0: 8}) == {
        0: "it says it saw 81 images: in earlier rounds it saw 8 at most"
    }
    assert [middle(values) for values in ([1.0], [1.0, 2.0], [3.0, 1.0, 2.0])] == [1.0, 2.0, 2.0]


def served(run_dir: Path, *changed: Pretender, **more: Any) -> Server:
    plan, parts = plan_and_parts(**({"min_clients": 1} | more))
    server = Server(plan, parts, run_dir)
    three = {number: Pretender(number) for number in range(plan.clients)} | {p.number: p for p in changed}
    for pretender in three.values():
        pretender.model = model_hash(server.model)
    server.serve(LocalLink(list(three.values())))
    return server


def test_an_owner_that_claims_a_thousand_million_images_is_left_out(tmp_path: Path) -> None:
    """It took the mean over: what it joined with was its own word as well."""
    liar = Pretender(1, claims={"images": 10**9}, spoil=spoilt(images=10**9))
    server = served(tmp_path / "lied", liar, rounds=1)
    said = server.rounds[0]["client1/refused"]
    assert said == "it says it saw 1000000000 images: the others saw 24 (max_images_ratio=10)"
    without = served(tmp_path / "without", Pretender(1, model="x", claims={"identities": -1}), rounds=1)
    assert server.rounds[0]["hash"] == without.rounds[0]["hash"]


def test_a_large_count_is_cut_and_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan, parts = plan_and_parts()
    start = {name: value.double() for name, value in weights_of(Server(plan, parts, tmp_path / "s")).items()}
    large = Pretender(1, claims={"images": 2000}, spoil=spoilt(images=2000))
    with caplog.at_level(logging.WARNING, "faceveil"):
        server = served(tmp_path / "run", large, rounds=1)
    assert caplog.messages == [
        "round 1, owner 1: it says it saw 2000 images, and counts for 240: max_images_ratio=10 times the middle one "
        "of the others'"
    ]
    assert server.rounds[0]["client1/images"] == 2000  # its word
    for name, value in weights_of(server).items():
        if name.startswith("backbone."):
            mean = start[name] + (8 * 1 + 240 * 2 + 24 * 3) / (8 + 240 + 24)
            torch.testing.assert_close(value.double(), mean, rtol=1e-5, atol=1e-5)


def test_a_count_that_grows_out_of_all_proportion(tmp_path: Path) -> None:
    """Also after the server was started again: the earlier rounds are on its disk."""

    def grows(update: Update) -> Update:
        return update if update.round == 1 else replace(update, images=161)

    grown = Pretender(1, claims={"images": 161}, spoil=grows)
    with pytest.raises(ValueError, match="min_clients=3"):
        served(tmp_path, grown, rounds=3, min_clients=3)
    server = served(tmp_path, grown, rounds=3)
    assert [record["clients"] for record in server.rounds] == [3, 2, 2]
    assert (
        server.rounds[2]["client1/refused"]
        == "it says it saw 161 images: in earlier rounds it saw 16 at most"
    )


def test_an_update_a_thousand_times_too_long_is_left_out_by_default(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def boosted(update: Update) -> Update:
        return replace(update, weights={name: value + 1000 for name, value in update.weights.items()})

    with caplog.at_level(logging.WARNING, "faceveil"):
        server = served(tmp_path, Pretender(0, spoil=boosted), rounds=1)
    assert server.rounds[0]["clients"] == 2
    assert "above 100 times the global weights' 6." in server.rounds[0]["client0/refused"]
    assert "round 1, owner 0 is left out: its update is" in caplog.text
    lifted = served(tmp_path / "lifted", Pretender(0, spoil=boosted), rounds=1, max_update_norm=math.inf)
    assert lifted.rounds[0]["clients"] == 3


@pytest.mark.parametrize(
    "more", [{}, {"partition": "dirichlet", "alpha": 0.1, "data": {"global_batch_size": 2}}]
)
def test_no_healthy_owner_comes_near(
    more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the shares: with limits a tenth as high, and a count that may be trebled, nobody is left out."""
    for name, limit in (("LONGEST", LONGEST), ("BESIDE", BESIDE / 2)):
        monkeypatch.setattr(
            f"lightning_app.federated.protocol.bounds.{name}", limit / 10 if name == "LONGEST" else limit
        )
    server = federated(tmp_path, max_images_ratio=3, **more)
    assert [record["clients"] for record in server.rounds] == [3, 3]
