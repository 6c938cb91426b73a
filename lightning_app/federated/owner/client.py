"""An owner: trains on its own faces, desensitized by the federation's mask, and hands out weights alone."""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from datamodules import FaceDataModule
from datamodules.same_data import Facts, Split, differences, refuse_data
from lightning_app.core.draws import seed_from
from lightning_app.core.files import PRIVATE, write_atomically
from lightning_app.core.foreign import read_json
from lightning_app.core.key_file import load_key
from lightning_app.desensitize import Desensitizer, MaskOut, is_clean
from lightning_app.federated.owner.local import train_round
from lightning_app.federated.owner.terms import (
    check_accepted,
    check_changes,
    check_desensitizer,
    check_invitation,
    lowest_ratio,
    masking_facts,
    recorded,
    servers_mask,
)
from lightning_app.federated.protocol.messages import Invitation, Joined, Refusal, Task, Update
from lightning_app.federated.protocol.partition import deal
from lightning_app.federated.protocol.people import part_of
from lightning_app.federated.protocol.plan import Parts, Plan
from lightning_app.federated.protocol.shared_mask import digest, mask_and_hash
from lightning_app.federated.protocol.weights import check_run_id, install, not_finite, travelling, unlike
from lightning_app.masks import load_mask, mask_hash, save_mask
from lightning_app.models.base import Recogniser
from lightning_app.networks import Head

log = logging.getLogger("faceveil")
_SET = "set.json"  # which images the owner had when it joined
_OWN = "own"  # begins the name of files that hold what stays with an owner beside a private head
_SEED, _HEAD = 0x666C7364, 0x666C6864  # "flsd", "flhd": name the draws


class Client:
    """One owner of faces.

    What it has to remember lies in its own folder, under the federation's name: the invitation with the mask, and its
    head where heads are private. So it may be another process in every round. What it accepts, and for a run keeps to,
    its own file decides (`terms`).

    Args:
        plan: how the federation goes; of its own config, of which rounds, epochs and seed are the server's.
        parts: its model, data and trainer.
        number: of the owner, from 0.
        folder: of the owner's files.
    """

    def __init__(self, plan: Plan, parts: Parts, number: int, folder: Path) -> None:
        self.plan, self.parts, self.number, self.folder = plan, parts, number, folder
        self._invitation: Invitation | None = None
        self._made: tuple[Recogniser, FaceDataModule] | None = None
        self._mask_hash = ""

    def join(self, invitation: Invitation) -> Joined:
        """Take the federation's mask, and tell what there is to train on.

        Args:
            invitation: of the server.

        Raises:
            ValueError: the owner's data or model cannot be used; a `Refusal` where the invitation asks for what the
                owner's own file does not allow, or is another than this owner has accepted for the run.
        """
        home = self.folder / check_run_id(invitation.run)
        kept = self._accepted(invitation.run)
        if kept is not None:
            check_accepted(kept, invitation)
        self._invitation, self._made = None, None
        made = self._make(invitation)
        model, data = made
        if kept is None:  # only now: what was refused is not remembered, and not trained on
            write_atomically(home / "invitation.json", json.dumps(recorded(invitation), indent=2) + "\n")
        if not (home / _SET).is_file():
            write_atomically(home / _SET, json.dumps(set_facts(data), indent=2) + "\n", mode=PRIVATE)
        self._invitation, self._made = invitation, made
        self._say(data.desensitizer, home / "mask.png")
        return Joined(
            client=self.number,
            images=len(data.reader),
            identities=data.num_classes,
            classes_hash=self._names_hash(data.reader.identities),
            model_hash=model_hash(model),
            mask_hash=self._mask_hash,
        )

    def train(self, task: Task) -> Update:
        """Train for one round.

        Args:
            task: of the server.

        Returns:
            The weights that travel; a private head is written into the owner's folder instead.

        Raises:
            FileNotFoundError: this owner was never invited.
            ValueError: mask or weights are not those it joined with, or cannot be used.
        """
        self.parts.use()
        if self._invitation is None or self._invitation.run != task.run:
            self._invitation, self._made = self._remembered(task.run), None
        invitation = self._invitation
        model, data = self._made = self._made or self._make(invitation)
        if not 1 <= task.round <= invitation.rounds:
            raise Refusal(f"round {task.round} of a federation of {invitation.rounds} rounds")
        if task.mask_hash != self._mask_hash:
            raise Refusal(
                f"the round's mask has the hash {task.mask_hash[:12]}…, this owner's {self._mask_hash[:12]}…: all "
                "desensitize with the same mask"
            )
        model.head = self._head(model, data, task.round)
        wrong = unlike(task.weights, travelling(model, invitation.private_heads)) or not_finite(task.weights)
        if wrong is not None:
            raise Refusal(f"the server's weights: {wrong}; give all owners the same model")
        install(model, task.weights, invitation.private_heads, "the server's weights")
        before = [path for path in self._files(_OWN) if _round_of(path) < task.round]
        model.take_back(load_file(before[-1]) if before else {})
        stays = self._home() / f"{_OWN}-{task.round:05d}.safetensors"
        done = train_round(model, data, self.parts.trainer, task.round, invitation.rounds,
                           invitation.local_epochs, self.folder, stays)  # fmt: skip
        self._forget(_OWN, task.round)
        if invitation.private_heads:
            self._write_head(model.head, task.round)
        return Update(
            client=self.number, round=task.round, mask_hash=self._mask_hash,
            images=done.batches * data.global_batch_size, batches=done.batches, loss=done.loss, lr=done.lr,
            seconds=done.seconds, weights=travelling(model, invitation.private_heads),
        )  # fmt: skip

    def _make(self, invitation: Invitation) -> tuple[Recogniser, FaceDataModule]:
        """Make model and data, with this owner's part, seed and desensitizer, if the invitation may be accepted."""
        check_invitation(invitation, self.plan)
        model, data = self.parts.make()
        if self.plan.partition != "own":
            labels = data.reader.labels
            plan = self.plan
            part = deal(labels, plan.clients, plan.partition, self.parts.seed, plan.alpha)[self.number]
            data.reader = part_of(data.reader, part, invitation.private_heads)
        data.seed = client_seed(invitation.seed, self.number)
        self._check_set(data, self.folder / check_run_id(invitation.run) / _SET)
        own = self.parts.data.get("init_args", {}).get("desensitizer")
        mask = servers_mask(invitation, data, own, self.plan)
        if mask is not None:
            data.desensitizer = self._masked(invitation, mask, data.size)
        self._mask_hash = mask_and_hash(data.desensitizer, data.size)[1]
        check_desensitizer(data.desensitizer, self.plan)
        if data.desensitizer.hides and not data.released:
            check_changes(data)
        return model, data

    def _check_set(self, data: FaceDataModule, file: Path) -> None:
        """Refuse other images than those of earlier rounds: held-out ones may have been trained on."""
        if file.is_file():
            found = differences(read_json(file), set_facts(data))
            if found:
                refuse_data(
                    found, f"owner {self.number}'s part of this federation", True, data.other_data == "accept"
                )

    def _masked(self, invitation: Invitation, mask: Tensor, size: int) -> MaskOut:
        """Hide by the server's mask, out of this owner's own file of it."""
        file = self.folder / invitation.run / "mask.png"
        if not file.is_file() or mask_hash(load_mask(file)) != invitation.mask_hash:
            save_mask(mask, file)
        return MaskOut(mask=file, size=size)

    def _say(self, desensitizer: Desensitizer, mask: Path) -> None:
        """Log under what the owner trains."""
        facts, method = masking_facts(desensitizer), desensitizer.describe()
        ratio, found = lowest_ratio(facts), facts.get("mask_hash")
        hidden = "" if ratio is None else f", which hides {ratio:.4f} of the pixels"
        called = "" if found is None else f", hash {found}"
        log.info("owner %d trains under %s%s%s", self.number, method["method"], hidden, called)
        if mask.is_file():
            log.info("owner %d: look at the mask: %s", self.number, mask)
        if is_clean(method):
            log.warning("owner %d trains on clean faces, as its own file says.", self.number)

    def _names_hash(self, names: Sequence[str]) -> str:
        """Hash the people's names for a shared head so that owners can be compared, and no name be guessed."""
        assert self._invitation is not None
        if self._invitation.private_heads:
            return ""
        if self.plan.partition != "own":  # one set, dealt on one machine: its server has the names
            return digest(names)
        if self.plan.names_key is None:
            log.warning("owner %d shares its head without names_key: nobody checks that all owners have the same "
                        "people.", self.number)  # fmt: skip
            return ""
        key = load_key(self.plan.names_key)
        return hmac.digest(
            key, b"names of a shared head\n" + json.dumps(list(names)).encode(), "sha256"
        ).hex()

    def _accepted(self, run: str) -> dict[str, Any] | None:
        """Read what this owner has accepted for a run; None where it has not, or has lost its files."""
        file = self.folder / check_run_id(run) / "invitation.json"
        if not file.is_file():
            return None
        kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return kept

    def _remembered(self, run: str) -> Invitation:
        home, kept = self.folder / check_run_id(run), self._accepted(run)
        if kept is None:
            raise FileNotFoundError(
                f"owner {self.number} has no invitation in {home}: it has to join before it trains"
            )
        mask = load_mask(home / "mask.png").to(torch.uint8) if kept["mask"] else None
        return Invitation(**(kept | {"mask": mask}))

    def _head(self, model: Recogniser, data: FaceDataModule, number: int) -> Head:
        """Return a head of the right size; a private one with the weights it had before this round."""
        invitation = self._invitation
        assert invitation is not None
        seed = client_seed(invitation.seed, self.number) if invitation.private_heads else invitation.seed
        head = new_head(model, data.num_classes, seed)
        before = [path for path in self._files("head") if _round_of(path) < number]
        if invitation.private_heads and before:
            head.load_state_dict(load_file(before[-1]))
        return head

    def _write_head(self, head: Head, number: int) -> None:
        """Write the head after a round; a server that is killed, or lost a file, may ask for earlier ones again."""
        file = self._home() / f"head-{number:05d}.safetensors"
        write_atomically(file, save({key: value.contiguous() for key, value in head.state_dict().items()}))
        self._forget("head", number)

    def _forget(self, what: str, number: int) -> None:
        for old in [path for path in self._files(what) if _round_of(path) < number][: -self.plan.keep]:
            old.unlink()

    def _files(self, what: str) -> list[Path]:
        return sorted(self._home().glob(f"{what}-*.safetensors"))

    def _home(self) -> Path:
        assert self._invitation is not None
        return self.folder / self._invitation.run


def set_facts(data: FaceDataModule) -> Facts:
    """Return which images an owner has, and which of them it holds out, without a name.

    Args:
        data: of the owner, its part and seed set.
    """
    return Split(data.reader, data.val_share, data.seed).facts


def client_seed(seed: int, client: int) -> int:
    """Return an owner's seed; owner 0 has the federation's own, so that a federation of one is an ordinary `fit`.

    Args:
        seed: of the federation.
        client: number of the owner.
    """
    return seed if client == 0 else seed_from(_SEED, seed, client) % 2**31


def new_head(model: Recogniser, classes: int, seed: int) -> Head:
    """Make a classification head, a function of the seed alone.

    Args:
        model: whose embeddings it takes.
        classes: identities it tells apart.
        seed: of its weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_from(_HEAD, seed))
        return model.make_head(classes)


def model_hash(model: Recogniser) -> str:
    """Hash a model's class and settings; the number of classes and how it is compiled do not count.

    Args:
        model: of a client or the server.
    """
    spared = ("num_classes", "compile", "channels_last", "cuda_graphs")
    settings = {key: value for key, value in model.hparams.items() if key not in spared and key[0] != "_"}
    return digest({"class": type(model).__name__, **settings})


def _round_of(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
