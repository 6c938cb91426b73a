"""Learned masks: core-first against its rounds of one U-Net pass, and a masker's training step against a bare loop.

Bounds: `core_first` ÷ rounds × one U-Net pass ≤ 1.1; a step ÷ a bare loop with the same three networks ≤ 1.05.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import PRECISION, Row, interleaved
from datamodules import DrawnFaces, FaceDataModule
from lightning_app.distributed.precision import autocast
from lightning_app.masks.learned import Growth, grown, masker_input, shown_pixels
from lightning_app.models import AdversarialMasker
from lightning_app.networks import UNet

TINY: dict[str, Any] = {
    "repeats": 1,
    "size": 32,
    "batch": 4,
    "rounds": 2,
    "width": 8,
    "masker_width": 8,
    "cycles": 1,
}
CORE_FIRST, STEP = 1.1, 1.05
_SHARE = 0.24


class _CycleTimes(L.Callback):
    """Seconds of each whole cycle of four steps, the first one left out."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, trainer: Any, model: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if model.batches.place(4) == 0:
            _wait()
            self.times.append(time.perf_counter())

    @property
    def median(self) -> float:
        return statistics.median(b - a for a, b in zip(self.times, self.times[1:], strict=False))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _core_first(repeats: int, size: int, batch: int, rounds: int, masker_width: int) -> Row:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    network = UNet(3, 1, masker_width).to(device).eval()
    image = torch.rand(batch, 3, size, size, device=device)
    shown, growth = shown_pixels(_SHARE, size), Growth(rounds)

    @torch.no_grad()
    def ours() -> None:
        grown(network, image, shown, growth)

    @torch.no_grad()
    def passes() -> None:
        for _ in range(rounds):
            network(image)

    return Row(
        f"core_first ÷ {rounds} × one U-Net pass", *interleaved(ours, passes, repeats), bound=CORE_FIRST,
        note=f"{batch} images, {size} px, width {masker_width}, fp32, {device.type}",
    )  # fmt: skip


def _cycle(
    model: AdversarialMasker, optimizer: torch.optim.Optimizer, images: list[Tensor], target: Tensor
) -> None:
    """Make four steps as anybody would write them: three of the predictor, one of the adversary."""
    count = model.shown
    for turn, raw in enumerate(images):
        image = raw.float() / 255
        optimizer.zero_grad()
        with autocast(PRECISION, raw.device):
            logits = model.masker(masker_input(image))
            soft = logits.sigmoid()
            flat = soft.detach().flatten(1)
            mask = torch.zeros_like(flat).scatter_(1, flat.topk(count).indices, 1.0).view_as(soft)
            shown = mask + soft - soft.detach()
            if turn < 3:
                seen = ((image * shown - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
                loss = F.cross_entropy(model.head.logits(model.backbone(seen)).float(), target)
            else:
                model.backbone.eval().requires_grad_(False)
                model.head.requires_grad_(False)
                seen = ((image * (1 - shown) - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
                loss = -F.log_softmax(model.head.logits(model.backbone(seen)).float(), 1).mean()
        loss.backward()
        optimizer.step()
        model.backbone.train().requires_grad_(True)
        model.head.requires_grad_(True)


def _model(size: int, width: int, masker_width: int) -> AdversarialMasker:
    torch.manual_seed(0)
    return AdversarialMasker(
        "resnet18", num_classes=16, input_size=size, width=width, masker_width=masker_width, share=_SHARE,
        faces=16, codes=1, schedule="constant",
    )  # fmt: skip


def _fit_s(size: int, batch: int, width: int, masker_width: int, cycles: int) -> float:
    times = _CycleTimes()
    each = (4 * (cycles + 1)) * batch // 16 + 1
    data = FaceDataModule(DrawnFaces(16, each, size), global_batch_size=batch, cache=True)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_steps=4 * (cycles + 1), max_epochs=-1, logger=False, enable_progress_bar=False, callbacks=[times],
            enable_checkpointing=False, enable_model_summary=False, default_root_dir=folder, precision=PRECISION,
            accelerator="auto", devices=1, use_distributed_sampler=False, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(_model(size, width, masker_width), datamodule=data)
    return times.median / 4


def _loop_s(size: int, batch: int, width: int, masker_width: int, cycles: int) -> float:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _model(size, width, masker_width).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    draw = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=draw)
        .to(device)
        .contiguous(memory_format=torch.channels_last)
        for _ in range(4)
    ]
    target = torch.arange(batch, device=device) % 16
    times = []
    for _ in range(cycles + 1):
        _wait()
        start = time.perf_counter()
        _cycle(model, optimizer, images, target)
        _wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]) / 4


def measure(
    repeats: int = 5,
    size: int = 112,
    batch: int = 64,
    rounds: int = 4,
    width: int = 64,
    masker_width: int = 16,
    cycles: int = 3,
) -> list[Row]:
    """Return two rows: masks of `core_first`, and a training step.

    Args:
        repeats: timed runs of each.
        size: side of the images in pixels.
        batch: images of a batch.
        rounds: of `core_first`.
        width: channels of ResNet-18's first stage, the predictor.
        masker_width: channels of the U-Net's outermost maps.
        cycles: of four steps in a timed run, beside one to warm up.
    """
    rows = [_core_first(repeats, size, batch, rounds, masker_width)]
    found = []
    sizes = (size, batch, width, masker_width, cycles)
    for repeat in range(repeats):
        order = [partial(_fit_s, *sizes), partial(_loop_s, *sizes)]
        pair = [run() for run in (order if repeat % 2 == 0 else order[::-1])]
        found.append(tuple(pair if repeat % 2 == 0 else pair[::-1]))
    ratios = [ours / loop for ours, loop in found]
    rows.append(Row(
        "masker, training step ÷ bare loop", statistics.median(ours for ours, _ in found),
        statistics.median(loop for _, loop in found), statistics.median(ratios), min(ratios), max(ratios), STEP,
        note=f"ResNet-18 and U-Net, {size} px, batch {batch}, {PRECISION}, three of four steps the predictor's",
    ))  # fmt: skip
    return rows
