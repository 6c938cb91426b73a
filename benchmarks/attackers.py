"""What our attackers cost a training step beside a bare loop of the same network, and LPIPS in batches, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import Row, interleaved
from lightning_app.core.batch import Batch
from lightning_app.metrics.lpips import LPIPS, weights_file
from lightning_app.models import Linker, UNetRestorer

TINY: dict[str, Any] = {"repeats": 1, "size": 32, "batch": 4, "width": 8, "warmup": 0}
_STEP, _BATCHED = 1.05, 0.5  # limits of the issue


class _Teacher(torch.nn.Module):
    """Embeds a face by the means of its parts: costs nothing beside the student."""

    def forward(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, 8).flatten(1)


def measure(
    repeats: int = 5, size: int = 112, batch: int = 32, width: int = 32, warmup: int = 2
) -> list[Row]:
    """Return the rows: a training step of UNetRestorer and Linker ÷ a bare one; LPIPS ÷ torchmetrics pair by pair.

    Args:
        repeats: timed steps of each.
        size: side of the images in pixels.
        batch: images a step.
        width: channels of the networks' first stage.
        warmup: untimed steps before.
    """
    generator = torch.Generator().manual_seed(0)
    clean, image = torch.rand(2, batch, 3, size, size, generator=generator)
    given = Batch(image=image, clean=clean, mask=None, mask_index=torch.zeros(batch, dtype=torch.int64))
    note = f"width {width}, {size} px, batch {batch}, fp32, per step; without Lightning's loop"
    restorer, linker = UNetRestorer(width, input_size=size), Linker(_Teacher(), width=width, input_size=size)
    restorer.pictures, restorer.pixels, linker.pixels = True, size, size
    linker._teach = [_Teacher()]
    linker._make(3 * 64)
    network, student = restorer.network, linker.network
    assert student is not None

    def plain_restorer() -> Tensor:
        seen = image.contiguous(memory_format=torch.channels_last)
        loss: Tensor = (network(seen, None, None, (size, size)) - clean).abs().mean()
        return loss

    def plain_linker() -> Tensor:
        seen = image.contiguous(memory_format=torch.channels_last)
        return 1 - F.cosine_similarity(student(seen), F.adaptive_avg_pool2d(clean, 8).flatten(1)).mean()

    rows = []
    models: tuple[tuple[str, Any, Callable[[], Tensor]], ...] = (
        ("UNetRestorer", restorer, plain_restorer), ("Linker", linker, plain_linker),
    )  # fmt: skip
    for name, model, plain in models:
        optimizer = torch.optim.Adam(model.parameters(), 1e-5)
        data = SimpleNamespace(mean=0.0, std=1.0)
        model._trainer = SimpleNamespace(datamodule=data, optimizers=[optimizer])
        model.log = model.log_dict = lambda *args, **kwargs: None
        ours = _step(optimizer, partial(model.training_step, given, 0))
        rows.append(
            Row(
                f"{name} ÷ a bare loop",
                *interleaved(ours, _step(optimizer, plain), repeats, warmup=warmup),
                _STEP,
                note,
            )
        )
    if weights_file() is not None:
        rows.append(_lpips(clean, image, repeats, warmup))
    return rows


def _step(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> Callable[[], None]:
    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def _lpips(a: Tensor, b: Tensor, repeats: int, warmup: int) -> Row:
    """Measure LPIPS of a batch ÷ torchmetrics' network of the same weights, a pair a call."""
    from torchmetrics.functional.image.lpips import _LPIPS  # one row alone needs it

    ours = LPIPS()
    reference = _LPIPS(pretrained=True, net="alex", pnet_rand=True).eval()
    trunk = [part for part in reference.net.modules() if isinstance(part, torch.nn.Conv2d)]
    for number, part in enumerate(trunk):
        part.weight.data.copy_(ours.convolutions[2 * number])
        assert part.bias is not None
        part.bias.data.copy_(ours.convolutions[2 * number + 1])

    @torch.no_grad()
    def peer() -> Tensor:
        pairs = [reference(x[None], y[None], normalize=True) for x, y in zip(a, b, strict=True)]
        return torch.cat(pairs).flatten()

    torch.testing.assert_close(ours(a, b), peer(), rtol=1e-4, atol=1e-5)
    timed = interleaved(lambda: ours(a, b), peer, repeats, warmup=warmup)
    return Row("LPIPS in a batch ÷ pair by pair", *timed, _BATCHED, f"{len(a)} pairs, {a.shape[-1]} px")
