"""A federation small enough for tests: 3 owners, drawn faces of 32 px, a network of one convolution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from lightning_app.federated.owner.client import Client
from lightning_app.federated.owner.link import LocalLink
from lightning_app.federated.protocol.messages import Invitation, Joined, Task, Update, Weights
from lightning_app.federated.protocol.plan import Parts, Plan, add_arguments, read_plan
from lightning_app.federated.protocol.shared_mask import digest
from lightning_app.federated.protocol.weights import travelling
from lightning_app.federated.server.run import Server
from lightning_app.models.base import Recogniser
from lightning_app.networks.backbones import BackboneMaker

DRAWN = {
    "class_path": "datamodules.DrawnFaces",
    "init_args": {"identities": 6, "images_per_identity": 8, "size": 32},
}
CLASSES = digest([f"Drawn_{person:05d}" for person in range(6)])
VEIL = {"class_path": "lightning_app.desensitize.MaskOut", "init_args": {"freeform": [0.7, 0.8]}}


class TinyBackbone(nn.Module):
    """A convolution and a batch norm: 16 numbers for an image."""

    dim = 16

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, self.dim, 5, stride=2, bias=False), nn.BatchNorm2d(self.dim)

    def forward(self, image: Tensor, mask: Tensor | None, mask_index: Tensor | None) -> Tensor:
        found: Tensor = self.bn1(self.conv1(image)).relu().mean((2, 3))
        return found


class Tiny(Recogniser):
    """A recogniser around it."""

    def configure_backbone(self, backbone: BackboneMaker | str, input_size: int, in_channels: int) -> Any:
        return TinyBackbone()


def config(**more: Any) -> dict[str, Any]:
    """The values of a tiny `federated.yaml`; `model`, `data` and `trainer` given here are merged into its own.

    With `real` it is a ResNet-18 with a gate, in place of one convolution with a batch norm.
    """
    real = more.pop("real", False)
    model = {"lr": 0.05} | (
        {"backbone": "resnet18", "width": 8, "insertion_points": ["layer2"]} if real else {}
    )
    data = {"reader": DRAWN, "desensitizer": VEIL, "global_batch_size": 8}
    return {
        "rounds": 2,
        "engine": "local",
        "trainer": {"accelerator": "cpu"} | more.pop("trainer", {}),
        "model": {
            "class_path": "lightning_app.models.ResNetFSM" if real else "tests.federated.tiny.Tiny",
            "init_args": model | more.pop("model", {}),
        },
        "data": {"class_path": "datamodules.FaceDataModule", "init_args": data | more.pop("data", {})},
    } | more


def plan_and_parts(**more: Any) -> tuple[Plan, Parts]:
    parser = ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    return read_plan(parser.parse_object(config(**more)))


def owners(plan: Plan, parts: Parts, folder: Path) -> list[Client]:
    return [Client(plan, parts, number, folder / "clients" / str(number)) for number in range(plan.clients)]


def federated(run_dir: Path, **more: Any) -> Server:
    """A whole federation in this process."""
    plan, parts = plan_and_parts(**more)
    server = Server(plan, parts, run_dir)
    server.serve(LocalLink(owners(plan, parts, run_dir)))
    return server


@dataclass
class Pretender:
    """An owner that trains nothing: it adds its number + 1 to every weight, unless `spoil` does something else."""

    number: int
    model: str = ""
    spoil: Callable[[Update], Update] = field(default=lambda update: update)
    mask_hash: str | None = None
    joined: int = 0
    claims: dict[str, Any] = field(default_factory=dict)  # of its answer to the invitation

    def join(self, invitation: Invitation) -> Joined:
        self.joined += 1
        mask = invitation.mask_hash if self.mask_hash is None else self.mask_hash
        images = 8 * (self.number + 1)
        return replace(Joined(self.number, images, 6, CLASSES, self.model, mask), **self.claims)

    def train(self, task: Task) -> Update:
        weights = {name: value + self.number + 1 for name, value in task.weights.items()}
        images = 8 * (self.number + 1)
        return self.spoil(Update(self.number, task.round, task.mask_hash, images, 3, 1.0, 0.05, 0.1, weights))


def spoilt(**changes: Any) -> Callable[[Update], Update]:
    return lambda update: replace(update, **changes)


def equal(first: Weights, second: Weights) -> bool:
    """Bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def weights_of(server: Server) -> Weights:
    return travelling(server.model, server.plan.heads_stay)
