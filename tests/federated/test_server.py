"""Rounds: faults, resume, determinism, and the checkpoint they leave."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_app.federated.owner.client import model_hash
from lightning_app.federated.owner.link import LocalLink
from lightning_app.federated.protocol.messages import (
    Failure,
    Invitation,
    Joined,
    Task,
    Unreached,
    Update,
    Weights,
)
from lightning_app.federated.protocol.weights import size_of, weights_hash
from lightning_app.federated.server.run import Server
from lightning_app.models.checkpoints import read_recogniser
from tests.federated.tiny import Pretender, federated, owners, plan_and_parts, spoilt, weights_of


def pretended(run_dir: Path, *changed: Pretender, **more: Any) -> tuple[Server, list[Pretender]]:
    """A server, and three owners that train nothing, some of them changed."""
    plan, parts = plan_and_parts(**({"min_clients": 2} | more))
    server = Server(plan, parts, run_dir)
    by_number = {number: Pretender(number) for number in range(plan.clients)} | {p.number: p for p in changed}
    for pretender in by_number.values():
        pretender.model = pretender.model or model_hash(server.model)
    return server, list(by_number.values())


def raises(update: Update) -> Update:
    raise RuntimeError("the disk is full")


def nan(update: Update) -> Update:
    update.weights["backbone.conv1.weight"][0] = torch.nan
    return update


def cut(update: Update) -> Update:
    weights: Weights = update.weights | {"backbone.conv1.weight": torch.zeros(1, 2)}
    return Update(**(vars(update) | {"weights": weights}))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (raises, "RuntimeError: the disk is full"),
        (nan, "values of backbone.conv1.weight are NaN or infinite"),
        (cut, "another shape: backbone.conv1.weight is (1, 2)"),
        (spoilt(round=1), "a stale update: of round 1, this is round 2"),
        (spoilt(seconds=9.5), "no answer within timeout=5 s"),
        (spoilt(mask_hash="x"), "another mask: its hash is x…"),
        (spoilt(client=0), "nobody asked it, or it has answered already"),
    ],
)
def test_a_faulty_owner_is_named_and_the_round_goes_on(
    spoil: Any, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From the second round on; the mean is that of the two others."""

    def later(update: Update) -> Update:
        changed: Update = spoil(update) if update.round == 2 else update
        return changed

    server, three = pretended(tmp_path, Pretender(1, spoil=later))
    start = {name: value.double() for name, value in weights_of(server).items()}
    with caplog.at_level(logging.WARNING, "faceveil"):
        server.serve(LocalLink(three, timeout=5))
    assert [record["clients"] for record in server.rounds] == [3, 2]
    assert reason in server.rounds[1][f"client{0 if 'nobody' in reason else 1}/refused"]
    assert any(reason in message for message in caplog.messages)
    # owner n adds n + 1 and has 8·(n + 1) images: (1·1 + 2·2 + 3·3) / 6, then without owner 1 (1·1 + 3·3) / 4
    for name, value in weights_of(server).items():
        if name.startswith("backbone."):
            torch.testing.assert_close(value.double(), start[name] + 14 / 6 + 10 / 4, rtol=1e-5, atol=1e-5)


def test_too_few_owners_is_one_error_and_what_is_done_stays(tmp_path: Path) -> None:
    def later(update: Update) -> Update:
        return nan(update) if update.round == 2 else update

    server, three = pretended(tmp_path, Pretender(1, spoil=later), Pretender(2, spoil=later))
    with pytest.raises(
        ValueError, match=r"round 2: 1 of 3 owners are left, min_clients=2 .* has round 1; given"
    ):
        server.serve(LocalLink(three))
    after, honest = pretended(tmp_path)
    assert len(after.rounds) == 1
    after.serve(LocalLink(honest))
    straight, others = pretended(tmp_path / "straight")
    straight.serve(LocalLink(others))
    assert after.rounds[-1]["hash"] == straight.rounds[-1]["hash"]


def test_an_owner_with_another_mask_or_model_never_joins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strange = [Pretender(1, mask_hash="e" * 64), Pretender(2, model="another")]
    server, three = pretended(tmp_path, *strange, min_clients=1)
    with caplog.at_level(logging.WARNING, "faceveil"):
        server.serve(LocalLink(three))
    assert [record["clients"] for record in server.rounds] == [1, 1]
    said = [message for message in caplog.messages if "cannot join" in message]
    assert len(said) == 2  # once, though both are asked before every round
    assert "owner 1 cannot join: another mask: its hash is eeeeeeeeeeee…" in said[0]
    assert "owner 2 cannot join: another model" in said[1]
    assert three[1].joined == 2


def test_an_owner_with_more_faces_is_left_out_once_and_a_late_one_is_not_invited_anew(tmp_path: Path) -> None:
    def grown(update: Update) -> Update:
        if update.round < 2:
            return update
        more.claims["images"] = 40
        return spoilt(images=40)(update)

    def slow(update: Update) -> Update:
        return spoilt(seconds=9.5)(update) if update.round == 2 else update

    more, late = Pretender(1, spoil=grown), Pretender(2, spoil=slow)
    server, three = pretended(tmp_path, more, late, min_clients=1, rounds=4)
    server.serve(LocalLink(three, timeout=5))
    assert [record["clients"] for record in server.rounds] == [3, 1, 3, 3]
    assert server.rounds[1]["client1/refused"] == "it says it saw 40 images: it joined with 16 for a round"
    assert server.rounds[3]["client1/images"] == 40
    assert [one.joined for one in three] == [1, 2, 1]


class StartedAgain(LocalLink):
    """Every owner is at another place before round 2, and joins again."""

    def newcomers(self, invitation: Invitation, members: set[int]) -> Iterator[Joined | Failure]:
        return super().newcomers(invitation, set())


def test_a_member_that_joins_again_is_checked_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def changes(update: Update) -> Update:
        other.mask_hash = "e" * 64
        return update

    def grows(update: Update) -> Update:
        more.claims["images"] = 40
        return update if update.round == 1 else spoilt(images=40)(update)

    more, other = Pretender(1, spoil=grows), Pretender(2, spoil=changes)
    server, three = pretended(tmp_path, more, other)
    with caplog.at_level(logging.WARNING, "faceveil"):
        server.serve(StartedAgain(three))
    assert [record["clients"] for record in server.rounds] == [3, 2]
    assert server.rounds[1]["client1/images"] == 40
    assert "owner 2 cannot join: another mask" in caplog.text
    assert "client2/refused" not in server.rounds[1]  # it is not asked


class Unplugged(LocalLink):
    """Owner 2 is gone in round 2."""

    def train(self, task: Task, members: set[int]) -> Iterator[Update | Failure]:
        if task.round == 2:
            yield Unreached(2, "it is not connected any more")
        yield from super().train(task, members - {2} if task.round == 2 else members)


def test_what_was_not_sent_is_not_counted(tmp_path: Path) -> None:
    server, three = pretended(tmp_path)
    server.serve(Unplugged(three))
    size = size_of(weights_of(server))
    assert [record["bytes_down"] for record in server.rounds] == [3 * size, 2 * size]
    assert server.rounds[1]["client2/refused"] == "it is not connected any more"


class Killed(LocalLink):
    """The server is killed while the last owner of round 2 trains."""

    def train(self, task: Task, members: set[int]) -> Iterator[Update | Failure]:
        for given in super().train(task, members):
            if task.round == 2 and isinstance(given, Update) and given.client == 1:
                raise KeyboardInterrupt
            yield given


@pytest.mark.parametrize("partition", ["images", "identities"])
def test_killed_and_started_again_it_ends_in_the_same_weights(partition: str, tmp_path: Path) -> None:
    """With two owners, of whom the first had trained for the round that was lost."""
    more = {"clients": 2, "partition": partition, "model": {"schedule": "one_cycle"}}
    whole = federated(tmp_path / "whole", **more)
    plan, parts = plan_and_parts(**more)
    with pytest.raises(KeyboardInterrupt):
        Server(plan, parts, tmp_path / "cut").serve(Killed(owners(plan, parts, tmp_path / "cut")))
    again = federated(tmp_path / "cut", **more)
    assert [record["hash"] for record in again.rounds] == [record["hash"] for record in whole.rounds]
    assert weights_hash(weights_of(again)) == again.rounds[-1]["hash"]
    assert whole.rounds[0]["hash"] != whole.rounds[1]["hash"]


def test_the_checkpoint_is_a_recogniser_like_any_other(tmp_path: Path) -> None:
    server, three = pretended(tmp_path, keep=1, real=True)
    server.serve(LocalLink(three))
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "last.ckpt",
        "round-00002.ckpt",
    ]
    model, facts = read_recogniser(tmp_path)
    assert (facts.model, facts.step, facts.clean) == ("ResNetFSM", 6, False)
    assert facts.desensitizer is not None
    assert facts.desensitizer["mask_hash"] == server.mask_hash
    assert model.head.num_classes == 6
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in server.model.state_dict().items())
    assert int(state["backbone.bn1.num_batches_tracked"]) == 6


def test_without_a_head_it_embeds_and_refuses_to_classify(tmp_path: Path) -> None:
    server, three = pretended(tmp_path, partition="identities", real=True)
    server.serve(LocalLink(three))
    model, _ = read_recogniser(tmp_path)
    assert model.embed(torch.zeros(1, 3, 32, 32)).shape == (1, 64)
    with pytest.raises(ValueError, match="without the head: they embed, and do not classify"):
        model(torch.zeros(1, 3, 32, 32))


def test_what_is_in_the_folder_is_not_gone_on_with_otherwise(tmp_path: Path) -> None:
    pretended(tmp_path)
    with pytest.raises(ValueError, match="was made with other settings"):
        pretended(tmp_path, model={"lr": 0.1})
    pretended(tmp_path, timeout=3, verify_every=2)  # what the result does not depend on may change
    other = tmp_path / "other"
    (other / "checkpoints").mkdir(parents=True)
    with pytest.raises(FileExistsError, match=r"holds another run \(checkpoints\)"):
        pretended(other)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rounds": 0}, "rounds=0: give at least 1"),
        ({"min_clients": 4}, "min_clients=4: give 1 to clients=3"),
        ({"partition": "identities", "private_heads": False}, "would average the heads of different people"),
        ({"timeout": 0}, "timeout=0"),
        (
            {"trainer": {"devices": 2, "strategy": "fsdp"}},
            "trainer.strategy: fsdp starts its processes by the",
        ),
        *[
            ({"trainer": {option: value}}, rf"trainer\.{option}={value}: .*{said}")
            for option, value, said in (
                ("accumulate_grad_batches", 0, "give a number above 0, or leave it out"),
                ("accumulate_grad_batches", -2, "give a number above 0, or leave it out"),
                ("gradient_clip_val", -1, "give a number above 0, or leave it out"),
                (
                    "limit_train_batches",
                    0,
                    "an owner has to train in every round; give a number of batches from 1",
                ),
                ("limit_train_batches", -1, "an owner has to train in every round"),
                ("limit_train_batches", 1.5, "a share above 0.0 up to 1.0"),
                ("fast_dev_run", True, "a federation makes no trial run.*leave it out, and give rounds: 1"),
                ("default_root_dir", "x", "leave it out"),
            )
        ],
    ],
)
def test_bad_plans(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_and_parts(**more)
