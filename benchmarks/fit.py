"""What `fit` costs beyond a bare loop, and masks and gates beyond none: ResNet-34, 112 px, on the CPU."""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import CPU, PRECISION, Row, interleaved
from datamodules import DrawnFaces, FaceDataModule
from lightning_app.core.batch import DrawKey
from lightning_app.desensitize import Desensitizer, Identity, MaskOut
from lightning_app.distributed.precision import autocast
from lightning_app.models import ResNet, ResNetFSM, ResNetPartial
from lightning_app.models.base import Recogniser
from lightning_app.networks.backbones.resnet import BackboneName, InsertionPoint

TINY: dict[str, Any] = {
    "repeats": 1, "size": 32, "batch": 2, "steps": 1, "warmup": 0, "network": "resnet18", "gated": ("layer1",),
}  # fmt: skip
PARTIAL_TRAINS, PARTIAL_INFERS = 1.25, 1.15  # two more multiplications a convolution, until all is seen
GATED: tuple[InsertionPoint, ...] = ("layer1", "layer3")


@dataclass(frozen=True)
class _Sizes:
    """Of what is timed: side of the images in pixels, images a step, steps a run, the backbone, gates to put in."""

    size: int
    batch: int
    steps: int
    network: BackboneName
    gated: Sequence[InsertionPoint]

    @property
    def note(self) -> str:
        return f"{self.network}, {self.size} px, batch {self.batch}, {PRECISION}, per step"

    def model(self) -> ResNet:
        return ResNet(self.network, num_classes=16, input_size=self.size)

    def gated_model(self, point: InsertionPoint) -> ResNetFSM:
        return ResNetFSM([point], backbone=self.network, num_classes=16, input_size=self.size)

    def partial_model(self) -> ResNetPartial:
        return ResNetPartial(backbone=self.network, num_classes=16, input_size=self.size)

    def data(self, desensitizer: Desensitizer) -> FaceDataModule:
        each = (self.steps + 3) * self.batch // 16 + 1
        people = DrawnFaces(identities=16, images_per_identity=each, size=self.size)
        data = FaceDataModule(people, desensitizer, global_batch_size=self.batch, cache=True)
        data.setup("fit")
        return data


class _StepTimes(L.Callback):
    """Seconds between the ends of successive training steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())

    @property
    def median(self) -> float:
        return statistics.median(b - a for a, b in zip(self.ends[1:-1], self.ends[2:], strict=True))


def _fit_step(model: Recogniser, data: FaceDataModule, steps: int) -> float:
    times = _StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="cpu", precision=PRECISION, max_steps=steps + 2, logger=CSVLogger(folder),
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False, limit_val_batches=0, callbacks=[times], barebones=False,
        )  # fmt: skip
        trainer.fit(model, datamodule=data)
    return times.median


def _bare_step(model: Recogniser, pixels: Tensor, identity: Tensor, batch: int, steps: int) -> float:
    """Time the same network, batch, precision, drawn order, flip and normalisation, with no framework."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    order, ends = torch.randperm(len(pixels)), []
    for step in range(steps + 2):
        at = order[step * batch : (step + 1) * batch]
        image = pixels[at].float() / 255
        image = torch.where((torch.rand(batch) < 0.5).view(-1, 1, 1, 1), image.flip(-1), image)
        image = ((image - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
        with autocast(PRECISION, CPU):
            logits = model.head.logits(model.backbone(image))
            loss = F.cross_entropy(logits.float(), identity[at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ends.append(time.perf_counter())
    return statistics.median(b - a for a, b in zip(ends[1:-1], ends[2:], strict=True))


def _paired(
    name: str,
    ours: Callable[[], float],
    peer: Callable[[], float],
    repeats: int,
    warmup: int,
    bound: float,
    note: str,
) -> Row:
    """Interleave two callables that time themselves and return seconds."""
    for _ in range(min(1, warmup)):
        ours(), peer()
    pairs: list[tuple[float, float]] = []
    for repeat in range(repeats):
        first, second = (ours, peer) if repeat % 2 == 0 else (peer, ours)
        a, b = first(), second()
        pairs.append((a, b) if repeat % 2 == 0 else (b, a))
    ratios = [a / b for a, b in pairs]
    return Row(
        name, statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs),
        statistics.median(ratios), min(ratios), max(ratios), bound, note,
    )  # fmt: skip


def measure(
    repeats: int = 7,
    size: int = 112,
    batch: int = 32,
    steps: int = 6,
    network: BackboneName = "resnet34",
    gated: Sequence[InsertionPoint] = GATED,
    warmup: int = 3,
) -> list[Row]:
    """Return the rows of training and inference speed.

    Args:
        repeats: timed runs of each.
        size: side of the images in pixels.
        batch: images a step.
        steps: of a run.
        network: the backbone.
        gated: insertion points, one model with a gate at each.
        warmup: untimed runs before, at most.
    """  # fmt: skip
    for noisy in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    sizes = _Sizes(size, batch, steps, network, gated)
    clean, masked = sizes.data(Identity()), sizes.data(MaskOut(freeform=(0.74, 0.78), size=size))
    whole = clean.training
    assert whole is not None, "the data module has no training images after setup"
    everything = whole.__getitems__(range(len(whole)))
    pixels, identity = everything["image"], everything["identity"]
    model, bare = sizes.model(), sizes.model()
    rows = [
        _paired("fit ÷ bare loop", lambda: _fit_step(model, clean, steps),
                lambda: _bare_step(bare, pixels, identity, batch, steps), repeats, warmup, 1.02, sizes.note),
        _paired("fit, masks on the fly ÷ none", lambda: _fit_step(model, masked, steps),
                lambda: _fit_step(bare, clean, steps), repeats, warmup, 1.01, sizes.note),
    ]  # fmt: skip
    return rows + _gates(sizes, masked, pixels[:batch], identity[:batch], repeats, warmup)


def _gates(
    sizes: _Sizes, data: FaceDataModule, images: Tensor, identity: Tensor, repeats: int, warmup: int
) -> list[Row]:
    plain = sizes.model()
    batch = data._normalised(
        data.augment(data.desensitize_batch({"image": images, "index": torch.arange(len(images))}), DrawKey())
    )
    rows = []

    def train(model: Recogniser) -> None:
        with autocast(PRECISION, CPU):
            loss = F.cross_entropy(
                model(batch["image"], batch["mask"], batch["mask_index"]).float(), identity
            )
        model.zero_grad()
        loss.backward()

    @torch.inference_mode()
    def infer(model: Recogniser, ready: Any) -> None:
        with autocast(PRECISION, CPU):
            model.embed(ready["image"], ready["mask"], ready["mask_index"])

    for point in sizes.gated:
        gated = sizes.gated_model(point)
        timing = interleaved(partial(train, gated), lambda: train(plain), 2 * repeats, warmup=min(2, warmup))
        rows.append(Row(f"ResNet-FSM ({point}) ÷ ResNet, training step", *timing, 1.03, sizes.note))
    partially = sizes.partial_model()
    timing = interleaved(partial(train, partially), lambda: train(plain), 2 * repeats, warmup=min(2, warmup))
    rows.append(Row("ResNet-partial ÷ ResNet, training step", *timing, PARTIAL_TRAINS, sizes.note))
    ready = data.prepare(images)
    mask = ready["mask"]
    assert mask is not None, "MaskOut gave the batch no mask"
    for point in sizes.gated:
        gated = sizes.gated_model(point)
        gated.eval(), plain.eval()
        gated.freeze_gate(mask)
        timing = interleaved(
            partial(infer, gated, ready),
            lambda: infer(plain, ready),
            4 * repeats,
            warmup=warmup,
        )
        rows.append(Row(f"ResNet-FSM ({point}), gate frozen ÷ ResNet, inference", *timing, 1.01, sizes.note))
    partially.eval(), plain.eval()
    partially.freeze_gate(mask)
    timing = interleaved(
        partial(infer, partially, ready), lambda: infer(plain, ready), 4 * repeats, warmup=warmup
    )
    rows.append(Row("ResNet-partial, mask frozen ÷ ResNet, inference", *timing, PARTIAL_INFERS, sizes.note))
    return rows
