"""What a server cannot talk an owner into; what an owner's own file says wins."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.key_file import make_key
from lightning_app.desensitize import Desensitizer, MaskOut
from lightning_app.federated.owner.client import Client, model_hash
from lightning_app.federated.owner.config import read_config
from lightning_app.federated.owner.link import LocalLink, answer
from lightning_app.federated.protocol.messages import Failure, Invitation, Refusal, Task, discreet
from lightning_app.federated.protocol.shared_mask import digest, mask_and_hash
from lightning_app.federated.protocol.weights import travelling
from lightning_app.federated.server.run import Server
from lightning_app.masks import mask_hash, save_mask
from tests.federated.tiny import VEIL, Pretender, config, plan_and_parts

RUN = "0" * 16
BLUR = {"class_path": "lightning_app.desensitize.GaussianBlur", "init_args": {"kernel": 9}}
NONE = {"class_path": "lightning_app.desensitize.Identity"}


class Still(Desensitizer):
    """It says that it hides, and does nothing, as a blur whose sigma is next to nothing did."""

    def desensitize(self, image: Tensor) -> Tensor:
        return image


class Upper(Desensitizer):
    """A plug-in that hides the upper part of every image, 0.7 of it."""

    has_mask = True
    hides_only = True

    def prepare(self, size: tuple[int, int]) -> None:
        self._mask = mask_hiding(0.7)[None].float()

    @property
    def shared_mask(self) -> Tensor | None:
        return self._mask

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        out = super().forward(batch, draw_key)
        out["mask"] = self._mask
        return out

    def desensitize(self, image: Tensor) -> Tensor:
        return image * self._mask

    def describe(self) -> dict[str, object]:
        return super().describe() | {"mask_hash": mask_hash(self._mask[0]), "mask_ratio": 0.7}


class Dim(MaskOut):
    """It does more than its mask says."""

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        out = super().forward(batch, draw_key)
        out["image"] = out["image"] / 2
        return out


def mask_hiding(share: float, turned: bool = False) -> Tensor:
    """`[1,32,32]` uint8 whose upper part is hidden."""
    mask = torch.ones(1, 32, 32, dtype=torch.uint8)
    mask.view(-1)[: round(share * 1024)] = 0
    return mask.flip(1) if turned else mask


def invitation(mask: Tensor | None, **more: Any) -> Invitation:
    found = "" if mask is None else mask_hash(mask)
    return replace(Invitation(RUN, 2, 1, True, 0, mask, found), **more)


def owner(folder: Path, desensitizer: Any = None, **more: Any) -> Client:
    """As in a deployment: its own faces; by default its file names no desensitizer."""
    data = {"desensitizer": desensitizer} | more.pop("data", {})
    return Client(*plan_and_parts(**{"partition": "own", "data": data} | more), 0, folder)


def task_of(client: Client, **more: Any) -> Task:
    assert client._made is not None
    weights = travelling(client._made[0], True)
    return replace(Task(RUN, 1, client._mask_hash, weights), **more)


def test_a_mask_that_hides_enough_is_taken_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = owner(tmp_path)
    asked = invitation(mask_hiding(0.5))
    with caplog.at_level(logging.INFO, "faceveil"):
        assert client.join(asked).mask_hash == asked.mask_hash
    picture = tmp_path / RUN / "mask.png"
    assert caplog.messages == [
        f"owner 0 trains under MaskOut, which hides 0.5000 of the pixels, hash {asked.mask_hash}",
        f"owner 0: look at the mask: {picture}",
    ]
    assert picture.is_file()


ONE_PIXEL = torch.ones(1, 32, 32, dtype=torch.uint8)
ONE_PIXEL[0, 5, 5] = 0


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (invitation(None), "the server sends no mask, and this owner's file names no desensitizer"),
        (invitation(ONE_PIXEL), "the mask hides 0.0010 of the pixels, this owner asks for 0.5 or more"),
        (invitation(mask_hiding(0.499)), "the mask hides 0.4990 of the pixels"),
        (invitation(1 - mask_hiding(0.76)), "the mask hides 0.2402 of the pixels"),  # the other polarity
        (invitation(mask_hiding(0.0)), "the server's mask hides no pixel"),
        (invitation(mask_hiding(1.0)), "the server's mask hides every pixel"),
        (invitation(mask_hiding(0.7)[:, :16]), r"the server's mask is \[1, 16, 32\], this owner's images need"),
        (invitation(mask_hiding(0.7).expand(2, 32, 32)[:1, None].reshape(1, 1, 32, 32)), r"mask is \[1, 1, 32, 32\]"),
        (replace(invitation(mask_hiding(0.7)), mask=mask_hiding(0.7).float() * torch.nan), "holds values other than 0"),
        (replace(invitation(mask_hiding(0.7)), mask=mask_hiding(0.7) * 255), "holds values other than 0"),
        (replace(invitation(mask_hiding(0.7)), mask=mask_hiding(0.6)), "its invitation says"),
        (invitation(mask_hiding(0.7), local_epochs=101), r"local_epochs=101 is not within 1 to 100 \(max_local_epochs"),
        (invitation(mask_hiding(0.7), rounds=10**7), "the server's rounds=10000000 is not within 1 to 1000000"),
        (invitation(mask_hiding(0.7), seed=2**70), "the server's seed="),
        (invitation(mask_hiding(0.7), private_heads=False), r"this owner's file is silent, which means private_heads"),
    ],
)  # fmt: skip
def test_an_owner_says_no_and_forgets_it(asked: Invitation, reason: str, tmp_path: Path) -> None:
    """With the shipped owner.yaml one trained on clean faces; the refused mask is not trained under later either."""
    client = owner(tmp_path)
    with pytest.raises(Refusal, match=reason):
        client.join(asked)
    with pytest.raises(FileNotFoundError, match="has to join before it trains"):
        client.train(Task(RUN, 1, asked.mask_hash, {}))
    assert not list(tmp_path.rglob("*.png"))
    assert client.join(invitation(mask_hiding(0.7))).images == 48  # a fair offer is still taken


@pytest.mark.parametrize("again", ["the same process", "another process"])
def test_an_owner_keeps_the_mask_it_has_seen(again: str, tmp_path: Path) -> None:
    """From round to round, after joining, and when it was started again: two masks show more than one."""
    first = invitation(mask_hiding(0.6))
    client = owner(tmp_path)
    client.join(first)
    done = client.train(task_of(client))
    assert done.mask_hash == first.mask_hash
    if again == "another process":
        client = owner(tmp_path)
    other = mask_hiding(0.6, turned=True)
    with pytest.raises(
        Refusal, match="the server's mask_hash has changed since this owner joined the run 0000"
    ):
        client.join(invitation(other))
    changed: list[tuple[str, Any]] = [("mask", None), ("local_epochs", 2), ("seed", 1)]
    for key, value in changed:
        with pytest.raises(Refusal, match=f"the server's {key} has changed"):
            client.join(replace(first, **{key: value}))
    task = Task(RUN, 2, mask_hash(other), done.weights)
    with pytest.raises(Refusal, match="the round's mask has the hash"):
        client.train(task)
    assert client.train(replace(task, mask_hash=first.mask_hash)).mask_hash == first.mask_hash
    assert client.join(first).mask_hash == first.mask_hash  # of a server that was started again


def test_a_changed_file_of_the_owner_counts_at_once(tmp_path: Path) -> None:
    """It has accepted 0.6, and asks for more now: it trains no round under that mask any more."""
    client = owner(tmp_path)
    client.join(invitation(mask_hiding(0.6)))
    task = task_of(client)
    with pytest.raises(Refusal, match=r"this owner asks for 0.7 or more"):
        owner(tmp_path, min_mask_ratio=0.7).train(task)
    save_mask(
        mask_hiding(0.9), tmp_path / RUN / "mask.png"
    )  # whoever wrote that: it is not what was accepted
    with pytest.raises(Refusal, match="its invitation says"):
        owner(tmp_path).train(task)


def test_an_owner_names_its_mask_or_another_ratio(tmp_path: Path) -> None:
    little, much = mask_hiding(0.3), mask_hiding(0.7)
    assert owner(tmp_path / "a", min_mask_ratio=0.29).join(invitation(little))
    assert owner(tmp_path / "b", mask_hash=mask_hash(little)).join(invitation(little))
    with pytest.raises(Refusal, match="mask_hash: this owner's file asks for the mask"):
        owner(tmp_path / "c", mask_hash=mask_hash(little)).join(invitation(much))
    with pytest.raises(Refusal, match=r"this owner asks for 0.5 or more"):  # both are said: both count
        owner(tmp_path / "d", mask_hash=mask_hash(little), min_mask_ratio=0.5).join(invitation(little))


def test_a_mask_of_the_owners_own_file_counts_like_a_servers(tmp_path: Path) -> None:
    save_mask(ONE_PIXEL, tmp_path / "one.png")
    own = {
        "class_path": "lightning_app.desensitize.MaskOut",
        "init_args": {"mask": str(tmp_path / "one.png")},
    }
    with pytest.raises(Refusal, match=r"the mask hides 0.0010 of the pixels"):
        owner(tmp_path / "a", own).join(invitation(ONE_PIXEL))
    assert owner(tmp_path / "a", own, min_mask_ratio=0.0).join(invitation(ONE_PIXEL))
    several = {"class_path": "lightning_app.desensitize.MaskOut",
               "init_args": {"freeform": [0.3, 0.7], "count": 8}}  # fmt: skip
    with pytest.raises(Refusal, match=r"this owner asks for 0.5 or more"):  # the lowest of them counts
        owner(tmp_path / "b", several).join(invitation(None))


def test_a_plug_in_that_hides_only_sends_its_mask(tmp_path: Path) -> None:
    """No list of our own classes decides: the server's class stays at the server, the mask travels."""
    plan, parts = plan_and_parts(partition="own", data={"desensitizer": {"class_path": f"{__name__}.Upper"}})
    server = Server(plan, parts, tmp_path / "run")
    assert server.invitation.mask is not None
    client = owner(tmp_path / "owner")
    assert client.join(server.invitation).mask_hash == server.mask_hash
    assert client._made is not None
    assert type(client._made[1].desensitizer) is MaskOut
    assert owner(tmp_path / "own", {"class_path": f"{__name__}.Upper"}).join(server.invitation).images == 48


def test_a_mask_does_not_stand_for_a_class_that_does_more(tmp_path: Path) -> None:
    masked, dimmed = (mask_and_hash(kind(freeform=(0.7, 0.8)), 32) for kind in (MaskOut, Dim))
    assert masked[0] is not None
    assert dimmed[0] is None
    assert masked[1] != dimmed[1]
    little = {"class_path": f"{__name__}.Dim", "init_args": {"freeform": [0.3, 0.4]}}
    with pytest.raises(Refusal, match=r"this owner asks for 0.5 or more"):  # its base puts masks on
        owner(tmp_path, little).join(invitation(None))


def test_the_mask_in_a_chain_counts(tmp_path: Path) -> None:
    def chain(low: float, high: float) -> dict[str, Any]:
        masked = {"class_path": "lightning_app.desensitize.MaskOut", "init_args": {"freeform": [low, high]}}
        return {"class_path": "lightning_app.desensitize.Chain",
                "init_args": {"steps": [masked, {"class_path": "lightning_app.desensitize.MixUp"}]}}  # fmt: skip

    for least in (None, 0.4):
        with pytest.raises(Refusal, match=r"the mask hides 0\.3\d* of the pixels"):
            owner(tmp_path / "little", chain(0.3, 0.35), min_mask_ratio=least).join(invitation(None))
    assert owner(tmp_path / "much", chain(0.7, 0.8), min_mask_ratio=0.7).join(invitation(None)).images == 48
    with pytest.raises(Refusal, match=r"mask_hash: .* this one is "):
        owner(tmp_path / "hash", chain(0.7, 0.8), mask_hash="0" * 64).join(invitation(None))


def test_another_desensitizer_or_none_stands_in_the_owners_own_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """None comes from the server: what an invitation holds beside a mask is numbers."""
    assert owner(tmp_path / "blur", BLUR).join(invitation(None)).mask_hash
    with caplog.at_level(logging.WARNING, "faceveil"):
        assert owner(tmp_path / "none", NONE).join(invitation(None)).mask_hash
    assert "trains on clean faces, as its own file says" in caplog.text
    with pytest.raises(Refusal, match="changes no pixel: this owner's faces would be trained on as they are"):
        owner(tmp_path / "still", {"class_path": f"{__name__}.Still"}).join(invitation(None))
    with pytest.raises(Refusal, match=r"data\.desensitizer: this owner's desensitizer has the hash"):
        owner(tmp_path / "other", BLUR).join(invitation(mask_hiding(0.7)))
    with pytest.raises(Refusal, match=r"mask_hash: .* GaussianBlur has none"):
        owner(tmp_path / "hash", BLUR, mask_hash="0" * 64).join(invitation(None))


@pytest.mark.parametrize("said", ["none", "lightning_app.desensitize.Identity", None])
def test_none_can_be_written_into_an_owners_file(said: str | None, tmp_path: Path) -> None:
    values = config(partition="own", private_heads=True, data={"desensitizer": said})
    (tmp_path / "owner.yaml").write_text(yaml.safe_dump(values))
    client = Client(*read_config({"config": str(tmp_path / "owner.yaml")}), 0, tmp_path / "folder")
    if said is None:
        with pytest.raises(Refusal, match="the server sends no mask"):
            client.join(invitation(None))
    else:
        assert client.join(invitation(None)).images == 48


def test_a_deployed_owner_has_a_set_of_its_own(tmp_path: Path) -> None:
    """With a simulation's partition its head would travel, and the hash of its people's names would need no key."""
    file = tmp_path / "owner.yaml"
    file.write_text(yaml.safe_dump(config(data={"desensitizer": None})))
    plan, parts = read_config({"config": str(file)})
    assert (plan.partition, plan.heads_stay) == ("own", True)
    client = Client(plan, parts, 0, tmp_path / "folder")
    with pytest.raises(Refusal, match="this owner's file is silent, which means private_heads"):
        client.join(invitation(mask_hiding(0.7), private_heads=False))
    assert client.join(invitation(mask_hiding(0.7), private_heads=True)).classes_hash == ""
    for desensitizer in (None, "none"):  # which are read in two ways
        for given in ("images", "identities", "dirichlet"):
            file.write_text(yaml.safe_dump(config(partition=given, data={"desensitizer": desensitizer})))
            with pytest.raises(
                ValueError, match=rf"partition: {given} in .*owner\.yaml deals .*: give own, or leave"
            ):
                read_config({"config": str(file)})
    file.write_text(yaml.safe_dump(config(private_heads=False, data={"desensitizer": None})))
    shared = Client(*read_config({"config": str(file)}), 0, tmp_path / "shared")
    assert (
        shared.join(invitation(mask_hiding(0.7), private_heads=False)).classes_hash == ""
    )  # without a names_key


def test_an_owners_trainer_is_checked_as_that_of_fit(tmp_path: Path) -> None:
    values = config(partition="own", trainer={"accumulate_grad_batches": -2})
    (tmp_path / "owner.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=r"trainer\.accumulate_grad_batches=-2: give a number above 0"):
        read_config({"config": str(tmp_path / "owner.yaml")})


def test_a_simulation_of_clean_faces_has_to_say_so(tmp_path: Path) -> None:
    """The same owners, by the local engine."""

    def run(name: str, desensitizer: Any) -> Server:
        trainer = {"limit_train_batches": 1}
        plan, parts = plan_and_parts(rounds=1, trainer=trainer, data={"desensitizer": desensitizer})
        server = Server(plan, parts, tmp_path / name)
        server.serve(LocalLink([Client(plan, parts, n, tmp_path / name / str(n)) for n in range(3)]))
        return server

    with pytest.raises(ValueError, match=r"0 of 3 owners are left.*the server sends no mask"):
        run("silent", None)
    assert run("said", NONE).rounds[0]["clients"] == 3


def test_what_a_round_may_ask_for(tmp_path: Path) -> None:
    client = owner(tmp_path)
    client.join(invitation(mask_hiding(0.6)))
    task = task_of(client)
    for number in (0, 3):
        with pytest.raises(Refusal, match=f"round {number} of a federation of 2 rounds"):
            client.train(replace(task, round=number))
    task.weights["backbone.conv1.weight"][0] = torch.nan
    with pytest.raises(
        Refusal, match=r"the server's weights: 75 values of backbone.conv1.weight are NaN or inf"
    ):
        client.train(task)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"min_mask_ratio": 1.0}, "min_mask_ratio=1.0: give a share of the pixels"),
        ({"min_mask_ratio": float("nan")}, "min_mask_ratio=nan: give a share"),
        ({"mask_hash": "abc"}, "mask_hash='abc': give all 64 hexadecimal digits"),
        ({"max_local_epochs": 0}, "max_local_epochs=0: give at least 1"),
        ({"max_images_ratio": 0.5}, "max_images_ratio=0.5: give at least 1"),
    ],
)
def test_bad_terms(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_and_parts(**more)


def test_an_explicit_private_head_stays_whatever_the_server_says(tmp_path: Path) -> None:
    asked = invitation(mask_hiding(0.7), private_heads=False)
    with pytest.raises(Refusal, match="this owner's file says private_heads: true: its head stays"):
        owner(tmp_path, private_heads=True).join(asked)
    shared = owner(tmp_path, private_heads=False)
    assert shared.join(asked).identities == 6
    own = owner(tmp_path / "safer", private_heads=False)  # a server that asks for less is no worse
    own.join(invitation(mask_hiding(0.7)))
    assert not any(name.startswith("head.") for name in own.train(task_of(own)).weights)


def test_the_names_hash_tells_a_server_that_guesses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = [tmp_path / f"{number}.key" for number in range(2)]
    for key in keys:
        make_key(key)
    asked = invitation(mask_hiding(0.7), private_heads=False)

    def said(name: str, **more: Any) -> str:
        return owner(tmp_path / name, private_heads=False, **more).join(asked).classes_hash

    with caplog.at_level(logging.WARNING, "faceveil"):
        silent = said("a")
    assert silent == ""
    assert "shares its head without names_key" in caplog.text
    one, same, other = (said(name, names_key=str(keys[at])) for name, at in (("b", 0), ("c", 0), ("d", 1)))
    five = {"class_path": "datamodules.DrawnFaces", "init_args": {"identities": 5, "size": 32}}
    fewer = said("e", names_key=str(keys[0]), data={"reader": five})
    assert one == same
    assert len({one, other, fewer}) == 3
    names = [f"Drawn_{person:05d}" for person in range(6)]
    for written in (names, sorted(names), json.dumps(names)):
        assert digest(written) not in (one, other)


def test_a_server_says_that_it_cannot_compare_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan, parts = plan_and_parts(partition="own", private_heads=False, rounds=1, data={"desensitizer": VEIL})
    server = Server(plan, parts, tmp_path / "run")
    clients = [
        Pretender(number, model_hash(server.model), claims={"classes_hash": ""}) for number in range(3)
    ]
    with caplog.at_level(logging.WARNING, "faceveil"):
        server.serve(LocalLink(clients))
    assert server.classes == (6, "")
    assert "share a head of 6 people and compare no names" in caplog.text


def test_what_an_owner_fails_of_names_nobody_to_the_server(caplog: pytest.LogCaptureFixture) -> None:
    """An error's words name files, and folders are called after people; a refusal's are written for the server."""

    def said(error: Exception) -> str:
        def fails() -> int:
            raise error

        found = answer("at node 5", fails, discreet)
        assert isinstance(found, Failure)
        return found.reason

    with caplog.at_level(logging.ERROR, "faceveil"):
        bad = said(ValueError("12 images cannot be decoded, such as Jane Doe/0001.jpg"))
        gone = said(FileNotFoundError(2, "No such file or directory", "/home/me/faces/Jane_Doe"))
    assert bad == "ValueError: its words are in the owner's own log"
    assert gone == "FileNotFoundError: No such file or directory; its words are in the owner's own log"
    assert "Jane Doe/0001.jpg" in caplog.text
    assert "/home/me/faces/Jane_Doe" in caplog.text
    assert said(Refusal("another mask")) == "Refusal: another mask"


def test_a_deployed_owner_is_discreet() -> None:
    pytest.importorskip("flwr")
    from lightning_app.federated.flower.apps import make_client_app

    assert signature(make_client_app).parameters["words"].default is discreet
