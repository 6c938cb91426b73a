"""What learning how much to mix costs a training step: AdaMixUp ÷ MixUp with a fixed k, on the CPU.

What bounds it: beside the step's own pass forward and back there are the reward's pass forward and back, the pass one
step ahead, forward alone, and the strategy network's pass forward and back, of a ResNet-18 on the same images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from typing import Any

import lightning as L

from benchmarks.timing import Row, interleaved
from datamodules import DrawnFaces, FaceDataModule
from lightning_app.desensitize import BlockDCT, Chain, Desensitizer, MixUp, RandomMixUp
from lightning_app.models import AdaMixUp, ResNet
from lightning_app.models.base import Recogniser
from lightning_app.networks.backbones.resnet import BackboneName

TINY: dict[str, Any] = {"repeats": 1, "size": 32, "batch": 4, "steps": 1, "width": 8}
_REPORTED = 6.0  # no limit was set: with a ResNet-18 on both sides the passes add up to some 3.3 times


def measure(
    repeats: int = 3,
    size: int = 112,
    batch: int = 32,
    steps: int = 3,
    network: BackboneName = "resnet18",
    width: int = 64,
) -> list[Row]:
    """Return the rows of a `fit` of AdaMixUp ÷ one with a fixed k, in 63 channels and in pixels.

    Args:
        repeats: timed fits of each.
        size: side of the images in pixels.
        batch: images a step.
        steps: of a fit.
        network: the recogniser's backbone.
        width: channels of the first stage, of recogniser and strategy.
    """
    rows = []
    before: Sequence[Desensitizer]
    for what, before in (("63 channels", [BlockDCT(normalise=True)]), ("pixels", [])):
        for looks, second in (("both rewards", 1.0), ("the first reward alone", 0.0)):
            learns = partial(_fit, AdaMixUp, before, RandomMixUp([2, 3, 4]), size, batch, steps, network, width,
                             strategy_width=width, reward2=second)  # fmt: skip
            fixed = partial(_fit, ResNet, before, MixUp(3), size, batch, steps, network, width)
            note = f"{network}, {size} px, batch {batch}, fp32, {steps} steps; bounded by three more passes"
            name = f"AdaMixUp, {what}, {looks} ÷ fixed k"
            rows.append(Row(name, *interleaved(learns, fixed, repeats, warmup=0), _REPORTED, note))
    return rows


def _fit(
    kind: type[Recogniser],
    before: Sequence[Desensitizer],
    mixer: Desensitizer,
    size: int,
    batch: int,
    steps: int,
    network: BackboneName,
    width: int,
    **more: Any,
) -> None:
    """Train for a few steps; what begins and ends a fit is in both."""
    reader = DrawnFaces(identities=8, images_per_identity=-(-batch * steps // 8), size=size)
    data = FaceDataModule(reader, Chain([*before, mixer]), global_batch_size=batch)
    model = kind(
        backbone=network, width=width, input_size=data.input_size, in_channels=data.in_channels, **more
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, limit_val_batches=0, default_root_dir=folder, use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(model, datamodule=data)
