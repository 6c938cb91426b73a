"""An owner's round is a stretch of an ordinary training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lightning_app.federated.owner.client import Client, client_seed
from lightning_app.federated.owner.local import quiet
from lightning_app.federated.protocol.messages import Invitation, Joined, Task
from lightning_app.federated.protocol.weights import travelling, weights_hash
from lightning_app.models.schedule import lr_factor
from tests.federated.tiny import equal, federated, owners, plan_and_parts, weights_of

ONE: dict[str, Any] = {"clients": 1, "data": {"global_batch_size": 16}}
PLAIN = {"momentum": 0.0, "schedule": "one_cycle", "weight_decay": 1e-3}


class Forget(L.Callback):
    """Let momentum start anew with every epoch."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.optimizers[0].state.clear()


def centralised(
    folder: Path, callbacks: list[L.Callback] | None = None, **more: Any
) -> dict[str, torch.Tensor]:
    """The state of an ordinary fit of as many epochs as there are rounds, from the same weights."""
    plan, parts = plan_and_parts(**more)
    model, data = parts.make()
    from lightning_app.federated.owner.client import new_head

    model.head = new_head(model, data.num_classes, parts.seed)
    with quiet():
        L.Trainer(
            **parts.trainer, max_epochs=plan.rounds, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
            default_root_dir=folder, callbacks=callbacks or [],
        ).fit(model, datamodule=data)  # fmt: skip
    return model.state_dict()


def test_one_client_and_one_step_of_plain_sgd_is_centralised_training_bit_for_bit(tmp_path: Path) -> None:
    more = ONE | {"rounds": 3, "real": True, "model": PLAIN, "trainer": {"limit_train_batches": 1}}
    server = federated(tmp_path / "run", **more)
    assert equal(server.model.state_dict(), centralised(tmp_path, **more))
    assert [record["batches"] for record in server.rounds] == [1, 1, 1]


def test_so_are_whole_epochs_and_momentum_starts_anew(tmp_path: Path) -> None:
    more = ONE | {"model": PLAIN | {"momentum": 0.9, "dropout": 0.3}}
    state = federated(tmp_path / "run", **more).model.state_dict()
    assert equal(state, centralised(tmp_path, [Forget()], **more))
    assert not equal(state, centralised(tmp_path, **more))


def test_a_round_is_a_function_of_seed_owner_and_round_alone(tmp_path: Path) -> None:
    plan, parts = plan_and_parts(rounds=4, model={"schedule": "one_cycle"})
    invitation = Invitation("0" * 16, 4, 1, False, 0, None, "")
    went, fresh, other = (Client(plan, parts, number, tmp_path / str(number)) for number in (1, 1, 2))
    hashes = set()
    for client in (went, fresh, other):
        client.join(invitation)
        hashes.add(client._mask_hash)
    task = Task("0" * 16, 1, hashes.pop(), _start(parts))
    first = went.train(task)
    third = Task("0" * 16, 3, task.mask_hash, task.weights)
    again = went.train(third)
    alone = fresh.train(third)  # it has not seen a round before
    assert weights_hash(again.weights) == weights_hash(alone.weights)
    # the same weights and another round, or another owner: other images in another order
    assert len({weights_hash(u.weights) for u in (first, again, other.train(third))}) == 3
    steps = 16 // 8  # of an owner in a round: 48 images, 3 owners, batches of 8
    assert (first.batches, first.images) == (steps, 16)
    assert first.lr == pytest.approx(0.05 * lr_factor(steps - 1, 4 * steps, "one_cycle"), rel=1e-6)
    assert again.lr == pytest.approx(0.05 * lr_factor(3 * steps - 1, 4 * steps, "one_cycle"), rel=1e-6)


def _start(parts: Any) -> dict[str, torch.Tensor]:
    model, data = parts.make()
    model.head = model.make_head(data.num_classes)
    return travelling(model, False)


def test_owner_0_has_the_seed_and_nobody_else(tmp_path: Path) -> None:
    assert client_seed(7, 0) == 7
    assert len({client_seed(seed, client) for seed in (7, 8) for client in range(5)}) == 10


def test_private_heads_stay_at_home_and_go_on(tmp_path: Path) -> None:
    server = federated(tmp_path / "run", partition="identities", clients=2)
    assert not any(name.startswith("head.") for name in weights_of(server))
    assert not any(name.startswith("head.") for name in server.model.state_dict())
    for number in (0, 1):
        heads = sorted((tmp_path / "run" / "clients" / str(number) / server.run).glob("head-*.safetensors"))
        assert [head.name for head in heads] == ["head-00001.safetensors", "head-00002.safetensors"]
        assert heads[0].read_bytes() != heads[1].read_bytes()


def test_what_an_owner_refuses(tmp_path: Path) -> None:
    plan, parts = plan_and_parts()
    client = owners(plan, parts, tmp_path)[0]
    weights = _start(parts)
    with pytest.raises(FileNotFoundError, match="owner 0 has no invitation in"):
        client.train(Task("0" * 16, 1, "", weights))
    with pytest.raises(ValueError, match="16 hexadecimal digits"):
        client.train(Task("../../somewhere", 1, "", weights))
    another = torch.ones(1, 32, 32, dtype=torch.uint8)
    another[:, :16] = 0
    with pytest.raises(
        ValueError, match=r"data\.desensitizer: this owner's desensitizer has the hash .* leave it out"
    ):
        client.join(Invitation("0" * 16, 2, 1, False, 0, another, "f" * 64))
    joined = client.join(Invitation("0" * 16, 2, 1, False, 0, None, ""))
    assert (joined.images, joined.identities) == (16, 6)
    with pytest.raises(ValueError, match="the round's mask has the hash 000000000000…, this owner's"):
        client.train(Task("0" * 16, 1, "0" * 64, weights))
    with pytest.raises(ValueError, match=r"the server's weights: other weights: .* is missing"):
        client.train(Task("0" * 16, 1, joined.mask_hash, {"backbone.conv1.weight": torch.zeros(1)}))


def test_an_owner_goes_on_with_its_own_images_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def asked(images: int, **data: Any) -> Joined:
        faces = {"class_path": "datamodules.DrawnFaces",
                 "init_args": {"identities": 6, "images_per_identity": images, "size": 32}}  # fmt: skip
        client = owners(*plan_and_parts(data={"reader": faces, **data}), tmp_path)[0]
        return client.join(Invitation("0" * 16, 2, 1, False, 0, None, ""))

    joined = asked(8)
    kept = tmp_path / "clients" / "0" / ("0" * 16) / "set.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "Drawn" not in kept.read_text()
    assert asked(8) == joined
    with pytest.raises(
        ValueError, match=r"owner 0's part of this federation was made with other data \(images 16, here"
    ):
        asked(9)
    with pytest.raises(ValueError, match=r"data.val_share 0.0, here 0.25"):
        asked(8, val_share=0.25)
    assert asked(9, other_data="accept").images > 16
    assert "owner 0's part of this federation was made with other data" in caplog.text
