"""Owners whose desensitizer draws from a key: which of them need the same one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from lightning_app.core.key_file import make_key
from lightning_app.core.owner_key import OwnerKey, is_of_this_process
from lightning_app.desensitize import FrequencyMask
from lightning_app.federated.owner.client import Client
from lightning_app.federated.owner.link import LocalLink
from lightning_app.federated.protocol.messages import Invitation, Refusal
from lightning_app.federated.protocol.plan import add_arguments, read_plan
from lightning_app.federated.protocol.shared_mask import mask_and_hash
from lightning_app.federated.server.run import Server
from lightning_app.models.checkpoints import read_recogniser
from tests.federated.tiny import config, owners, plan_and_parts


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The files of two keys."""
    folder = tmp_path_factory.mktemp("keys")
    files = folder / "first.key", folder / "second.key"
    for file in files:
        make_key(file)
    return files


def frequency(key: Path | None, **options: Any) -> dict[str, Any]:
    given = options | ({} if key is None else {"key": str(key)})
    return {"class_path": "lightning_app.desensitize.FrequencyMask", "init_args": {"channels": 6, **given}}


def owner(folder: Path, key: Path | None, **options: Any) -> Client:
    data = {"desensitizer": frequency(key, **options)}
    return Client(*plan_and_parts(partition="own", data=data), 0, folder)


def invitation(key: Path, **options: Any) -> Invitation:
    """Of a server that makes channels with a key."""
    found = mask_and_hash(FrequencyMask(channels=6, key=key, **options), 32)[1]
    return Invitation("0" * 16, 2, 1, True, 0, None, found)


def test_one_key_and_one_recogniser_of_channels(keys: tuple[Path, Path], tmp_path: Path) -> None:
    values = config(rounds=1, clients=2, data={"desensitizer": frequency(keys[0])})
    values["model"] = {"class_path": "lightning_app.models.ResNet",
                       "init_args": {"backbone": "resnet18", "width": 8, "lr": 0.05}}  # fmt: skip
    parser = ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    plan, parts = read_plan(parser.parse_object(values))
    server = Server(plan, parts, tmp_path)
    assert server.invitation.mask is None
    server.serve(LocalLink(owners(plan, parts, tmp_path)))
    assert [record["clients"] for record in server.rounds] == [2]
    facts = read_recogniser(tmp_path)[1]
    assert facts.in_channels == 6
    assert facts.desensitizer is not None
    assert facts.desensitizer["key_hash"] == OwnerKey.of(keys[0]).hash
    secret = keys[0].read_bytes().strip()
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and secret in f.read_bytes()]


def test_another_key_is_refused_where_the_order_is_fixed(keys: tuple[Path, Path], tmp_path: Path) -> None:
    asked = invitation(keys[0])
    assert owner(tmp_path / "same", keys[0]).join(asked).mask_hash == asked.mask_hash
    told = OwnerKey.of(keys[1]).hash[:12]
    with pytest.raises(
        Refusal, match=rf"FrequencyMask has the hash .* one key file \(this owner's key .* {told}…"
    ):
        owner(tmp_path / "other", keys[1]).join(asked)
    with pytest.raises(Refusal, match=r"all owners and the server need the same settings"):
        owner(tmp_path / "settings", keys[0], mix=False).join(asked)


def test_each_has_a_key_of_its_own_where_every_image_has_another_order(
    keys: tuple[Path, Path], tmp_path: Path
) -> None:
    asked = invitation(keys[0], permutation="image")
    assert owner(tmp_path / "own", keys[1], permutation="image").join(asked).mask_hash == asked.mask_hash
    assert owner(tmp_path / "random", None, permutation="image").join(asked).images == 48
    with pytest.raises(Refusal, match="all owners and the server need the same settings, and one key file"):
        owner(tmp_path / "fixed", keys[0]).join(asked)


def test_a_random_key_is_nobody_elses(keys: tuple[Path, Path], tmp_path: Path) -> None:
    """Every owner is a process of its own in the simulation too, and a server that goes on is another one."""
    with pytest.raises(Refusal, match=r"data\.desensitizer\.key: FrequencyMask draws from a random key here"):
        owner(tmp_path / "owner", None).join(invitation(keys[0]))
    plan, parts = plan_and_parts(data={"desensitizer": frequency(None)})
    with pytest.raises(ValueError, match="give each the same key file"):
        Server(plan, parts, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert is_of_this_process(OwnerKey.of(None).hash)
    assert not is_of_this_process(OwnerKey.of(keys[0]).hash)
