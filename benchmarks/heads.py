"""ArcFace with k labels an image against one: bound 1.05 of a training step at 10,000 identities, in time and memory.

A step is forward, backward and optimiser of ResNet-18 and head, with so few images that all of it ends in about a
minute on one core. Memory is the head's own: on a GPU the peak of forward and backward, on the CPU what the forward
pass keeps for the backward pass.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import Row, interleaved
from lightning_app.networks import ArcFaceHead
from lightning_app.networks.backbones import make_backbone

TINY: dict[str, Any] = {"repeats": 1, "images": 4, "size": 32, "classes": 50, "width": 8, "ks": (2,)}


def _mixes(images: int, k: int, classes: int, device: torch.device) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(k)
    target = torch.randint(0, classes, (images, k), generator=draw).to(device)
    if k == 1:
        return (target[:, 0],)
    weight = torch.rand(images, k, generator=draw)
    return target, (weight / weight.sum(1, keepdim=True)).to(device)


def _kept_bytes(run: Callable[[], Tensor], device: torch.device) -> int:
    """Measure what a forward pass keeps for its backward pass; on a GPU the peak of both."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run().backward()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    storages: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = run()
    del loss
    gc.collect()
    return sum(storages.values())


def measure(
    repeats: int = 5,
    images: int = 32,
    size: int = 112,
    classes: int = 10_000,
    width: int = 64,
    ks: tuple[int, ...] = (2, 6),
) -> list[Row]:
    """Return two rows for each number of labels: time of a step, and memory of the head in bytes.

    Args:
        repeats: timed steps of each.
        images: of a batch.
        size: side of the images in pixels.
        classes: identities.
        width: channels of ResNet-18's first stage.
        ks: numbers of labels an image.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    net = make_backbone("resnet18", 3, size, width)
    net = net.to(device).to(memory_format=torch.channels_last)
    head = ArcFaceHead(net.dim, classes).to(device)
    optimizer = torch.optim.SGD([*net.parameters(), *head.parameters()], lr=1e-3, momentum=0.9)
    faces = torch.randn(images, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    embedding = torch.randn(images, net.dim, device=device, requires_grad=True)

    def step(labels: tuple[Tensor, ...]) -> None:
        optimizer.zero_grad()
        head(net(faces), *labels)[0].backward()
        optimizer.step()

    def loss(labels: tuple[Tensor, ...]) -> Tensor:
        found: Tensor = head(embedding, *labels)[0]
        return found

    one, rows = _mixes(images, 1, classes, device), list[Row]()
    single = _kept_bytes(partial(loss, one), device)
    what = f"{images} images, {classes:,} identities, {device.type}"
    for k in ks:
        many = _mixes(images, k, classes, device)
        timing = interleaved(partial(step, many), partial(step, one), repeats)
        rows.append(Row(f"ArcFace, {k} labels ÷ 1, training step", *timing, bound=1.05,
                        note=f"ResNet-18, {size} px, {what}"))  # fmt: skip
        mixed = _kept_bytes(partial(loss, many), device)
        ratio = mixed / single
        rows.append(Row(f"ArcFace, {k} labels ÷ 1, memory", mixed / 1e6, single / 1e6, ratio, ratio, ratio, 1.05,
                        note=f"the columns are MB of the head; {what}"))  # fmt: skip
    return rows
