"""An owner: trains on its own faces, veiled by the federation's mask, and hands out weights alone."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import nn

from datamodules import FaceDataModule
from lightning_app.desensitize import MaskOut
from lightning_app.draws import seed_from
from lightning_app.federated.local import train_round
from lightning_app.federated.messages import Invitation, Joined, Task, Update
from lightning_app.federated.partition import deal
from lightning_app.federated.people import part_of
from lightning_app.federated.plan import Parts, Plan
from lightning_app.federated.veil import digest, veil_of
from lightning_app.federated.weights import check_run_id, install, travelling
from lightning_app.files import write_atomically
from lightning_app.masks import load_mask, save_mask
from lightning_app.models.base import Recogniser

_SEED, _HEAD = 0x666C7364, 0x666C6864  # "flsd", "flhd": name the draws


class Client:
    """One owner of faces.

    What it has to remember lies in its own folder, under the federation's name: the invitation with the mask, and its
    head where heads are private. So it may be another process in every round.

    Args:
        plan: how the federation goes; of its own config, of which rounds, epochs, seed and private heads are the
            server's.
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
            ValueError: the owner's own veil is another, or its data or model cannot be used.
        """
        home = self.folder / check_run_id(invitation.run)
        if invitation.mask is not None:
            save_mask(invitation.mask, home / "mask.png")
        about = asdict(replace(invitation, mask=None)) | {"mask": invitation.mask is not None}
        write_atomically(home / "invitation.json", json.dumps(about, indent=2) + "\n")
        self._invitation, self._made = invitation, None
        model, data = self._open()
        shared = not invitation.private_heads
        return Joined(
            client=self.number,
            images=len(data.reader),
            identities=data.num_classes,
            classes_hash=digest(data.reader.identities) if shared else "",
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
            ValueError: mask or weights are not those it joined with.
        """
        self.parts.use()
        if self._invitation is None or self._invitation.run != task.run:
            self._invitation, self._made = self._remembered(task.run), None
        model, data = self._open()
        invitation = self._invitation
        if task.mask_hash != self._mask_hash:
            raise ValueError(
                f"the round's mask has the hash {task.mask_hash[:12]}…, this owner's {self._mask_hash[:12]}…: all "
                "veil with the same mask"
            )
        model.head = self._head(model, data, task.round)
        install(model, task.weights, invitation.private_heads, "the server's weights")
        done = train_round(model, data, self.parts.trainer, task.round, invitation.rounds,
                           invitation.local_epochs, self.folder)  # fmt: skip
        if invitation.private_heads:
            self._keep_head(model.head, task.round)
        return Update(
            client=self.number, round=task.round, mask_hash=self._mask_hash,
            images=done.batches * data.global_batch_size, batches=done.batches, loss=done.loss, lr=done.lr,
            seconds=done.seconds, weights=travelling(model, invitation.private_heads),
        )  # fmt: skip

    def _open(self) -> tuple[Recogniser, FaceDataModule]:
        """Make model and data once, with this owner's part, seed and veil."""
        if self._made is not None:
            return self._made
        invitation = self._invitation
        assert invitation is not None
        model, data = self.parts.make()
        if self.plan.partition != "own":
            labels = data.reader.labels
            plan = self.plan
            part = deal(labels, plan.clients, plan.partition, self.parts.seed, plan.alpha)[self.number]
            data.reader = part_of(data.reader, part, invitation.private_heads)
        data.seed = client_seed(invitation.seed, self.number)
        if invitation.mask is not None and not data.released:
            own = data.desensitizer
            theirs = veil_of(own, data.size)[1] if own.hides else invitation.mask_hash
            if theirs != invitation.mask_hash:
                raise ValueError(
                    f"data.desensitizer: this owner's veil has the hash {theirs[:12]}…, the federation's "
                    f"{invitation.mask_hash[:12]}…: leave it out (desensitizer: null), the server sends the mask"
                )
            data.desensitizer = MaskOut(mask=self._home() / "mask.png", size=data.size)
        self._mask_hash = veil_of(data.desensitizer, data.size)[1]
        self._made = model, data
        return self._made

    def _remembered(self, run: str) -> Invitation:
        home = self.folder / check_run_id(run)
        if not (home / "invitation.json").is_file():
            raise FileNotFoundError(
                f"owner {self.number} has no invitation in {home}: it has to join before it trains"
            )
        about = json.loads((home / "invitation.json").read_text(encoding="utf-8"))
        mask = load_mask(home / "mask.png").to(torch.uint8) if about["mask"] else None
        return Invitation(**(about | {"mask": mask}))

    def _head(self, model: Recogniser, data: FaceDataModule, number: int) -> nn.Module:
        """Give a head of the right size; a private one with the weights it had before this round."""
        invitation = self._invitation
        assert invitation is not None
        seed = client_seed(invitation.seed, self.number) if invitation.private_heads else invitation.seed
        head = new_head(model, data.num_classes, seed)
        before = [path for path in self._heads() if _round_of(path) < number]
        if invitation.private_heads and before:
            head.load_state_dict(load_file(before[-1]))
        return head

    def _keep_head(self, head: nn.Module, number: int) -> None:
        """Write the head after a round; a server that is killed, or lost a file, may ask for earlier ones again."""
        file = self._home() / f"head-{number:05d}.safetensors"
        write_atomically(file, save({key: value.contiguous() for key, value in head.state_dict().items()}))
        for old in [path for path in self._heads() if _round_of(path) < number][: -self.plan.keep]:
            old.unlink()

    def _heads(self) -> list[Path]:
        return sorted(self._home().glob("head-*.safetensors"))

    def _home(self) -> Path:
        assert self._invitation is not None
        return self.folder / self._invitation.run


def client_seed(seed: int, client: int) -> int:
    """Give an owner's seed; owner 0 has the federation's own, so that a federation of one is an ordinary `fit`.

    Args:
        seed: of the federation.
        client: number of the owner.
    """
    return seed if client == 0 else seed_from(_SEED, seed, client) % 2**31


def new_head(model: Recogniser, classes: int, seed: int) -> nn.Linear:
    """Make a classification head, a function of the seed alone.

    Args:
        model: whose embeddings it takes.
        classes: identities it tells apart.
        seed: of its weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_from(_HEAD, seed))
        return nn.Linear(model.backbone.dim, classes)


def model_hash(model: Recogniser) -> str:
    """Hash a model's class and settings; the number of classes and how it is compiled do not count.

    Args:
        model: of a client or the server.
    """
    spared = ("num_classes", "compile", "channels_last")
    settings = {key: value for key, value in model.hparams.items() if key not in spared and key[0] != "_"}
    return digest({"class": type(model).__name__, **settings})


def _round_of(path: Path) -> int:
    return int(path.stem.removeprefix("head-"))
