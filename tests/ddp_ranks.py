"""What a rank does in the tests of DDP. A fork server imports this once, and every rank is forked off it."""

from __future__ import annotations

import hashlib
import os
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import load_file
from torch import Tensor, distributed, nn
from torch.utils._python_dispatch import TorchDispatchMode

from callbacks import DSSIMReport, Embeddings, LFWVerification
from callbacks.sharded import ImageState, embed_sharded
from datamodules import DrawnFaces, FaceDataModule
from datamodules.verification.readers import PairList
from lightning_app.desensitize import Chain, FrequencyMask, MaskOut, MixUp, RandomMixUp
from lightning_app.distributed.ranks import agree, share_buffers
from lightning_app.models import AdaMixUp, ResNet, ResNetFSM
from lightning_app.models.base import Recogniser
from lightning_app.models.mix_strategy import MixStrategy
from lightning_app.networks import IRSE50, ArcFaceHead
from lightning_app.networks.backbones import BackboneMaker

# at 32 px the last map is 1×1, and the batch norm of a rank with two images sees two numbers a channel: they are ±1
# whatever comes, the running variance is another world, and the loss in evaluation in the thousands
SIZE, PEOPLE = 48, 7
STATES = {"desensitized": ImageState(desensitized=True), "clean": ImageState(desensitized=False)}


class Listed(DrawnFaces):
    """A verification set of exactly so many images."""

    def __init__(self, count: int) -> None:
        super().__init__(identities=count, images_per_identity=1, size=SIZE, first_identity=100)
        at = torch.arange(2 * count) % count
        same = torch.arange(2 * count) < count
        self.pairs = PairList(
            names=[self.name(i) for i in range(count)], a=at, b=torch.where(same, at, (at * 5 + 1) % count),
            same=same, folds=at % 2, identities=self.identities, labels=self.labels,
        )  # fmt: skip


class Collectives(TorchDispatchMode):
    """Counts what is said between the ranks, and the images that go through the network."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.calls = self.images = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func.namespace == "c10d"
        convolution = func in (torch.ops.aten.convolution.default, torch.ops.aten.conv2d.default)
        if convolution and args[1].shape[1] == 3:  # the first layer
            self.images += len(args[0])
        return func(*args, **(kwargs or {}))


class Probe(L.Callback):
    """Keeps the embeddings of 13 and of 2 images, and what 13 cost in batches of one and in a single one."""

    def __init__(self) -> None:
        self.found: dict[str, list[list[float]]] = {}
        self.cost: dict[str, list[int]] = {"collectives": [], "images": []}

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        for count in (13, 2):
            every = embed_sharded(trainer, pl_module, data, Listed(count), STATES)
            self.found |= {f"{name} {count}": values.tolist() for name, values in every.items()}
        for batch_size in (1, 13):
            with Collectives() as counted:
                embed_sharded(trainer, pl_module, data, Listed(13), STATES, batch_size=batch_size)
            self.cost["collectives"].append(counted.calls)
            self.cost["images"].append(counted.images)


def model() -> ResNetFSM:
    torch.manual_seed(0)
    return ResNetFSM(["layer2"], backbone="resnet18", width=8, num_classes=PEOPLE, input_size=SIZE, lr=1e-3)


def faces(images: int = 8, people: int = PEOPLE, val_share: float = 0.2) -> FaceDataModule:
    """56 images, of which 7 are held out: on 2 ranks, 3 in a batch, 2 batches and 1."""
    desensitizer = MaskOut(freeform=(0.5, 0.8), count=7, draw="image", size=SIZE)
    reader = DrawnFaces(identities=people, images_per_identity=images, size=SIZE)
    return FaceDataModule(reader, desensitizer, global_batch_size=6, val_share=val_share)


class NoNorm(nn.Module):
    """A backbone without batch norm: what a rank computes depends on its own images alone."""

    dim = 16

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, self.dim, 5, stride=2)

    def forward(self, image: Tensor, mask: Tensor | None, mask_index: Tensor | None) -> Tensor:
        found: Tensor = self.conv1(image).relu().mean((2, 3))
        return found


class Plain(Recogniser):
    """A recogniser around it."""

    def configure_backbone(self, backbone: BackboneMaker | str, input_size: int, in_channels: int) -> Any:
        return NoNorm()


class Steps(L.Callback):
    """Keeps of every step the weights before it, the mixed batch of this rank, and the gradients after averaging."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.found.append({
            "batch": {key: batch[key].clone() for key in ("image", "target", "weight", "index")},
            "weights": {key: value.clone() for key, value in pl_module.state_dict().items()},
        })  # fmt: skip

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        grads = {name: one.grad for name, one in pl_module.named_parameters()}
        self.found[-1]["gradients"] = {name: grad.clone() for name, grad in grads.items() if grad is not None}


def plain_model() -> Plain:
    torch.manual_seed(0)
    return Plain(num_classes=PEOPLE, input_size=SIZE, lr=0.1)


def mixed_steps(folder: Path, world: int, rank: int) -> None:
    """Train on mixes, and write what every step was: `mixes-<rank>.pt`."""
    reader = DrawnFaces(identities=PEOPLE, images_per_identity=4, size=SIZE)
    data = FaceDataModule(reader, MixUp(2, key=folder / "owner.key"), global_batch_size=6)
    steps, network = Steps(), plain_model()
    make_trainer(folder, world, steps).fit(network, datamodule=data)
    torch.save({"steps": steps.found, "trained": network.state_dict()}, folder / f"mixes-{rank}.pt")


class Dealt(L.Callback):
    """Keeps of every step the images of this rank, the shape of what was made of them, and the loss."""

    def __init__(self) -> None:
        self.index: list[list[int]] = []
        self.shapes: list[list[int]] = []
        self.losses: list[float] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.index.append(batch["index"].tolist())
        self.shapes.append([*batch["image"].shape, *batch["weight"].shape])
        self.losses.append(float(outputs["loss"]))


def mixed_frequencies(folder: Path, world: int) -> dict[str, Any]:
    """Train the second paper's network and head on mixed representations; give what was seen and what it became."""
    torch.manual_seed(0)
    network = ResNet(
        backbone=partial(IRSE50, width=8), head=partial(ArcFaceHead, s=16.0, m=0.3), num_classes=PEOPLE,
        input_size=SIZE, in_channels=63, lr=0.05,
    )  # fmt: skip
    before, dealt = hash_of(dict(network.named_parameters())), Dealt()
    key = folder / "owner.key"
    steps = Chain([FrequencyMask(permutation="image", key=key), MixUp(2, key=key)])
    reader = DrawnFaces(identities=PEOPLE, images_per_identity=8, size=SIZE)
    trainer = make_trainer(folder, world, dealt)
    trainer.fit(network, datamodule=FaceDataModule(reader, steps, global_batch_size=4 * world))
    trained = hash_of(dict(network.named_parameters()))
    return vars(dealt) | {"before": before, "trained": trained}


def make_trainer(folder: Path, world: int, *callbacks: L.Callback) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu", devices=world, max_epochs=1, logger=False, callbacks=list(callbacks),
        strategy=DDPStrategy(timeout=timedelta(seconds=60)) if world > 1 else "auto", num_sanity_val_steps=0,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
        default_root_dir=folder, use_distributed_sampler=False,
    )  # fmt: skip


def measured(folder: Path, world: int, network: ResNetFSM, people: int = PEOPLE) -> dict[str, Any]:
    """Validate: figures and embeddings."""
    probe = Probe()
    trainer = make_trainer(
        folder, world, probe, DSSIMReport(images=5), LFWVerification(reader=Listed(13), bootstrap=0),
        LFWVerification(reader=Listed(2), bootstrap=0, name="two"),
    )  # fmt: skip
    trainer.validate(network, datamodule=faces(people=people), verbose=False)
    return {"figures": floats(trainer.callback_metrics), "embeddings": probe.found, "cost": probe.cost}


def floats(metrics: dict[str, Tensor]) -> dict[str, float]:
    return {key: float(value) for key, value in metrics.items()}


def refusal(run: Any) -> str:
    try:
        run()
    except ValueError as error:
        return str(error)
    return "no error"


def rank_of(world: int, rank: int, port: int, folder: Path) -> dict[str, Any]:
    """Do on one of several ranks all that the tests ask about."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world),
                   "LOCAL_RANK": str(rank), "NODE_RANK": "0"}  # fmt: skip
    found: dict[str, Any] = measured(folder, world, model())
    found["few held out"] = measured(folder, world, model(), people=2)["figures"]

    trained = model()
    trainer = make_trainer(folder, world, LFWVerification(reader=Listed(13), bootstrap=0))
    trainer.fit(trained, datamodule=faces())
    found["fit"] = floats(trainer.callback_metrics)
    if rank == 0:
        torch.save(trained.state_dict(), folder / "trained.pt")

    mixed_steps(folder, world, rank)
    found["mixed frequencies"] = mixed_frequencies(folder, world)
    for count in (13, 2):
        trainer = make_trainer(folder / f"predict{count}", world, Embeddings())
        data = FaceDataModule(Listed(count), faces().desensitizer, global_batch_size=6)
        trainer.predict(model(), datamodule=data)
        written = load_file(folder / f"predict{count}" / f"embeddings.{rank}.safetensors")
        found[f"predict {count}"] = {key: value.tolist() for key, value in written.items()}

    other = faces(images=9 if rank == world - 1 else 8)
    found["another set"] = refusal(lambda: other.setup("fit"))
    undealt = FaceDataModule(Listed(13), global_batch_size=7)
    undealt.trainer = make_trainer(folder, world)
    found["undealt"] = refusal(lambda: undealt.setup("fit"))
    found["another list"] = refusal(lambda: agree("list", lambda: {"pairs": 7, "order": "abc"[rank]}))
    found["bad images"] = refusal(lambda: count_bad_images(rank))
    network = model()
    first = next(buffer for buffer in network.buffers() if buffer.is_floating_point())
    first.fill_(float(rank + 1))
    share_buffers(network)
    found["buffers"] = first.unique().tolist()
    found["learns to mix"] = learnt_mixing(folder, world)
    found["strategy"] = strategy_of(rank, world)
    distributed.destroy_process_group()
    return found


class Drawn(L.Callback):
    """Keeps the k of every batch."""

    def __init__(self) -> None:
        self.k: list[int] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *rest: Any) -> None:
        self.k.append(pl_module.drawn_k)


def learnt_mixing(folder: Path, world: int) -> dict[str, Any]:
    """Train AdaMixUp; give the hashes of what it learnt, and the k of every batch."""
    torch.manual_seed(0)
    network = AdaMixUp(
        strategy_width=8, backbone="resnet18", width=8, num_classes=PEOPLE, input_size=SIZE, lr=1e-2
    )
    reader = DrawnFaces(identities=PEOPLE, images_per_identity=8, size=SIZE)
    desensitizer = RandomMixUp([2, 3, 4], key=folder / "owner.key")
    drawn = Drawn()
    trainer = make_trainer(folder, world, drawn)
    trainer.fit(network, datamodule=FaceDataModule(reader, desensitizer, global_batch_size=4 * world))
    strategy = network.strategy
    assert strategy is not None
    return {
        "weights": hash_of(dict(network.named_parameters())),
        "strategy": hash_of(strategy.state()),
        "probability": strategy.probability.tolist(),
        "k": drawn.k,
    }


def hash_of(tensors: dict[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].detach().contiguous().numpy().tobytes())
    return found.hexdigest()


class Averages(torch.nn.Module):
    """A strategy network without batch norm: what it learns of a batch does not depend on how it is dealt."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.choose = torch.nn.Conv2d(3, 6, 4, stride=4), torch.nn.Linear(6, 3)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.choose(self.features(image).relu().mean((2, 3)).mean(0))
        return logits


def strategy_of(rank: int, world: int) -> dict[str, list[float]]:
    """Show a strategy twelve images, this rank's share of them; give its logits and its weights after a step."""

    def mean(value: Tensor) -> Tensor:
        if distributed.is_initialized():
            distributed.all_reduce(value)
        return value / world

    made = MixStrategy([2, 3, 4], 3, SIZE, 8, 1e-2, 0.1, False, seed=5)
    torch.manual_seed(3)
    made.network = Averages()  # type: ignore[assignment]
    made.optimizer = torch.optim.SGD(made.network.parameters(), lr=0.1)  # type: ignore[assignment]
    images = torch.rand(12, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(7))
    logits = made.look(images[rank::world], mean)
    made.learn(logits, 3, 2.0, mean)
    weights = torch.cat([weight.detach().flatten() for weight in made.network.parameters()])
    return {"logits": logits.tolist(), "weights": weights.tolist()}


def count_bad_images(rank: int) -> None:
    """Two of 150 images cannot be decoded, each met by another rank: neither has more than 1 % by itself."""
    data = faces(images=15, people=10)
    data.setup("fit")
    bad = torch.tensor([rank] if rank < 2 else [])
    data.on_before_batch_transfer({"bad": bad.long()}, 0)
    data.teardown("fit")
