"""A federation under learned masks: of the population the server sends the mask, of others all need the masker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datamodules.same_description import same_desensitizer
from lightning_app.desensitize import LearnedMask, MaskOut
from lightning_app.federated.owner.client import Client
from lightning_app.federated.owner.link import LocalLink
from lightning_app.federated.protocol.messages import Refusal
from lightning_app.federated.protocol.shared_mask import mask_and_hash
from lightning_app.federated.server.run import Server
from lightning_app.masks import mask_hash
from tests.federated.tiny import federated, owners, plan_and_parts
from tests.masker import write_masker

SIZE = 32


@pytest.fixture(scope="module")
def masker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_masker(tmp_path_factory.mktemp("masker") / "m.ckpt", size=SIZE, rounds=2)


def learned(masker: Path, kind: str = "population", **more: Any) -> dict[str, Any]:
    return {"class_path": "lightning_app.desensitize.LearnedMask",
            "init_args": {"checkpoint": str(masker), "kind": kind, **more}}  # fmt: skip


def test_the_mask_of_the_population_travels(masker: Path, tmp_path: Path) -> None:
    made = LearnedMask(masker)
    mask, digest = mask_and_hash(made, SIZE)
    assert mask is not None
    assert digest == made.describe()["mask_hash"] == mask_hash(mask)
    assert made.shared_mask is made.mask
    plan, parts = plan_and_parts(rounds=1, clients=2, data={"desensitizer": learned(masker)})
    server = Server(plan, parts, tmp_path)
    clients = owners(plan, parts, tmp_path)
    server.serve(LocalLink(clients))
    assert len(server.rounds) == 1
    for client in clients:  # each trains under its own file of it, and needs no masker
        assert client._made is not None
        used = client._made[1].desensitizer
        assert type(used) is MaskOut
        assert used.describe()["mask_hash"] == digest


@pytest.mark.parametrize("kind", ["core_first", "codebook"])
def test_masks_for_each_image_need_the_masker_at_every_owner(kind: str, masker: Path, tmp_path: Path) -> None:
    mask, digest = mask_and_hash(LearnedMask(masker, kind=kind), SIZE)  # type: ignore[arg-type]
    assert mask is None
    assert digest != mask_and_hash(LearnedMask(masker, 0.1, kind), SIZE)[1]  # type: ignore[arg-type]
    server = federated(tmp_path, rounds=1, clients=2, data={"desensitizer": learned(masker, kind)})
    assert len(server.rounds) == 1


def test_an_owner_with_another_masker_is_refused(masker: Path, tmp_path: Path) -> None:
    plan, parts = plan_and_parts(rounds=1, clients=2, data={"desensitizer": learned(masker, "core_first")})
    server = Server(plan, parts, tmp_path)
    _, others = plan_and_parts(
        rounds=1, clients=2, data={"desensitizer": learned(masker, "core_first", share=0.1)}
    )
    with pytest.raises(Refusal, match="all owners and the server need the same settings"):
        Client(plan, others, 0, tmp_path / "clients/0").join(server.invitation)


def test_a_codebook_chosen_otherwise_is_another_method(masker: Path) -> None:
    description = [LearnedMask(masker, kind="codebook") for _ in range(2)]
    for one in description:
        one.prepare((SIZE, SIZE))
    first = description[0].describe()
    assert same_desensitizer(first, description[1].describe())
    assert not same_desensitizer(first, first | {"choice": "exponential", "epsilon": 1.0})
