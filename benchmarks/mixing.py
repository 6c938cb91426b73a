"""What mixing costs a training step: MixUp and InstaHide in pixels, and of 63 channels, on the CPU.

Batches are small, so that all of it ends in about a minute on one core: what mixing costs grows with the images as a
step does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import CPU, PRECISION, Row, interleaved
from datamodules import DrawnFaces
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import Desensitizer, Identity, InstaHide, MixUp
from lightning_app.distributed.precision import autocast
from lightning_app.models import ResNet
from lightning_app.networks.backbones.resnet import BackboneName

TINY: dict[str, Any] = {"repeats": 1, "size": 32, "batch": 4, "network": "resnet18", "warmup": 0}
_CHANNELS = 63  # of the frequency representation
_REPORTED = 1.25  # no limit was set: it is reported, and more would be a fault


def measure(
    repeats: int = 5, size: int = 112, batch: int = 16, network: BackboneName = "resnet18", warmup: int = 1
) -> list[Row]:
    """Return the rows of a training step under mixing ÷ without, labels mixed as images are.

    Args:
        repeats: timed steps of each.
        size: side of the images in pixels.
        batch: images a step.
        network: the backbone.
        warmup: untimed steps before.
    """
    faces = DrawnFaces(identities=16, images_per_identity=-(-batch // 16), size=size)
    read = faces.__getitems__(range(batch))
    pixels = read["image"].float() / 255
    channels = torch.randn(batch, _CHANNELS, size, size, generator=torch.Generator().manual_seed(0))
    rows = []
    for what, image, made, bound in (
        ("MixUp in pixels, k = 2", pixels, MixUp(2), 1.01),
        ("InstaHide in pixels, k = 6", pixels, InstaHide(min(batch, 6)), _REPORTED),
        ("MixUp in 63 channels, k = 2", channels, MixUp(2), _REPORTED),
        ("InstaHide in 63 channels, k = 2", channels, InstaHide(2), _REPORTED),
    ):
        given = Batch(image=image, identity=read["identity"], index=torch.arange(batch))
        model = ResNet(network, num_classes=16, input_size=size, in_channels=image.shape[1])
        made.after(image.shape[1] == 3)
        ours, peer = (_step(model, given, one) for one in (made, Identity()))
        note = f"{network}, {size} px, batch {batch}, {PRECISION}, per step"
        rows.append(Row(f"{what} ÷ none", *interleaved(ours, peer, repeats, warmup=warmup), bound, note))
    return rows


def _step(model: ResNet, batch: Batch, desensitizer: Desensitizer) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return partial(_train, model, optimizer, batch, desensitizer)


def _train(model: ResNet, optimizer: torch.optim.Optimizer, batch: Batch, desensitizer: Desensitizer) -> None:
    """Desensitize, normalise, and learn one batch."""
    ready = desensitizer(batch, DrawKey(mix=True))
    target: Tensor = ready.get("target", ready["identity"])
    with autocast(PRECISION, CPU):
        embedding = model.embed((ready["image"] - 0.5) / 0.5)
        loss, _ = model.head(embedding, target, ready.get("weight"))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
