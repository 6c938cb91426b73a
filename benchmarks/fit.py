"""What `fit` costs beyond a bare loop, and masks and gates beyond none: ResNet-34, 112 px, bf16 on the CPU."""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import Row, interleaved
from datamodules import DrawnFaces, FaceDataModule
from lightning_app.batch import Moment
from lightning_app.desensitize import Desensitizer, Identity, MaskOut
from lightning_app.models import ResNet, ResNetFSM
from lightning_app.models.base import Recogniser
from lightning_app.networks.backbone import InsertionPoint

SIZE, BATCH, STEPS = 112, 32, 6
GATED: tuple[InsertionPoint, ...] = ("layer1", "layer3")


class _StepTimes(L.Callback):
    """Seconds between the ends of successive training steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())

    @property
    def median(self) -> float:
        return statistics.median(b - a for a, b in zip(self.ends[1:-1], self.ends[2:], strict=True))


def _data(desensitizer: Desensitizer) -> FaceDataModule:
    people = DrawnFaces(identities=16, images_per_identity=(STEPS + 3) * BATCH // 16 + 1, size=SIZE)
    data = FaceDataModule(people, desensitizer, global_batch_size=BATCH, cache=True)
    data.setup("fit")
    return data


def _fit_step(model: Recogniser, data: FaceDataModule) -> float:
    times = _StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="cpu", precision="bf16-mixed", max_steps=STEPS + 2, logger=CSVLogger(folder),
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False, limit_val_batches=0, callbacks=[times], barebones=False,
        )  # fmt: skip
        trainer.fit(model, datamodule=data)
    return times.median


def _bare_step(model: Recogniser, pixels: Tensor, identity: Tensor) -> float:
    """The same network, batch, precision, drawn order, flip and normalisation, with no framework."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    order, ends = torch.randperm(len(pixels)), []
    for step in range(STEPS + 2):
        at = order[step * BATCH : (step + 1) * BATCH]
        image = pixels[at].float() / 255
        image = torch.where((torch.rand(BATCH) < 0.5).view(-1, 1, 1, 1), image.flip(-1), image)
        image = ((image - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model.head(model.backbone(image))
            loss = F.cross_entropy(logits.float(), identity[at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ends.append(time.perf_counter())
    return statistics.median(b - a for a, b in zip(ends[1:-1], ends[2:], strict=True))


def _paired(
    name: str, ours: Callable[[], float], peer: Callable[[], float], repeats: int, bound: float, note: str
) -> Row:
    """Interleave two callables that time themselves and return seconds."""
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


def measure(repeats: int = 7) -> list[Row]:
    """Return the rows of training and inference speed.

    Args:
        repeats: timed runs of each.
    """
    for noisy in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    note = f"ResNet-34, {SIZE} px, batch {BATCH}, bf16, per step"
    clean, masked = _data(Identity()), _data(MaskOut(freeform=(0.755, 0.765), size=SIZE))
    whole = clean.training
    assert whole is not None
    everything = whole.__getitems__(range(len(whole)))
    pixels, identity = everything["image"], everything["identity"]
    model = ResNet(num_classes=16, input_size=SIZE)
    bare = ResNet(num_classes=16, input_size=SIZE)
    rows = [
        _paired("fit ÷ bare loop", lambda: _fit_step(model, clean), lambda: _bare_step(bare, pixels, identity),
                repeats, 1.02, note),
        _paired("fit, masks on the fly ÷ none", lambda: _fit_step(model, masked), lambda: _fit_step(bare, clean),
                repeats, 1.01, note),
    ]  # fmt: skip
    return rows + _gates(masked, pixels[:BATCH], identity[:BATCH], repeats, note)


def _gates(data: FaceDataModule, images: Tensor, identity: Tensor, repeats: int, note: str) -> list[Row]:
    plain = ResNet(num_classes=16, input_size=SIZE)
    batch = data._normalised(
        data.augment(data.veiled({"image": images, "index": torch.arange(BATCH)}), Moment())
    )
    rows = []

    def train(model: Recogniser) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(
                model(batch["image"], batch["mask"], batch["mask_index"]).float(), identity
            )
        model.zero_grad()
        loss.backward()

    @torch.inference_mode()
    def infer(model: Recogniser, ready: Any) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            model.embed(ready["image"], ready["mask"], ready["mask_index"])

    for point in GATED:
        gated = ResNetFSM([point], num_classes=16, input_size=SIZE)
        timing = interleaved(partial(train, gated), lambda: train(plain), 2 * repeats, warmup=2)
        rows.append(Row(f"ResNet-FSM ({point}) ÷ ResNet, training step", *timing, 1.03, note))
    ready = data.prepare(images)
    mask = ready["mask"]
    assert mask is not None
    for point in GATED:
        gated = ResNetFSM([point], num_classes=16, input_size=SIZE)
        gated.eval(), plain.eval()
        gated.freeze_gate(mask)
        timing = interleaved(
            partial(infer, gated, ready),
            lambda: infer(plain, ready),
            4 * repeats,
            warmup=3,
        )
        rows.append(Row(f"ResNet-FSM ({point}), gate frozen ÷ ResNet, inference", *timing, 1.01, note))
    return rows
