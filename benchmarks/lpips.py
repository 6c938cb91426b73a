"""LPIPS of a batch against the reference implementation, a pair at a time, on the CPU: bound 0.5 of the time.

The reference is the code of the package `lpips`, as torchmetrics carries it, with its heads. AlexNet's own weights are
drawn in both: what they are changes neither the time nor whether the values are equal.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.image.lpips import _LPIPS as Reference

from benchmarks.timing import CPU, Row, interleaved
from lightning_app.metrics.lpips import LPIPS

TINY: dict[str, Any] = {"repeats": 1, "images": 2, "size": 48}
_APART = 1e-5  # greatest difference of two values, as a share of the greatest value


def both() -> tuple[LPIPS, Reference]:
    """Return ours and the reference with the same weights, drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        peer = Reference(net="alex", pnet_rand=True)
    layers = [layer for layer in peer.net.modules() if isinstance(layer, nn.Conv2d)]
    convolutions = [(layer.weight.detach(), _bias(layer)) for layer in layers]
    heads = [
        layer.weight.detach().flatten()
        for head in peer.lins
        for layer in head.modules()
        if isinstance(layer, nn.Conv2d)
    ]
    return LPIPS.of(convolutions, heads), peer


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias.detach()


def measure(repeats: int = 5, images: int = 64, size: int = 112) -> list[Row]:
    """Return the row of a batch.

    Args:
        repeats: timed runs of each.
        images: pairs of the batch.
        size: side of the images in pixels.
    """
    model, reference = both()
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, images, 3, size, size, generator=generator)

    def ours() -> Tensor:
        found: Tensor = model(a, b)
        return found

    @torch.no_grad()
    def peer() -> Tensor:
        pairs = [reference(one[None], other[None], normalize=True) for one, other in zip(a, b, strict=True)]
        return torch.cat(pairs).flatten()

    mine, theirs = ours(), peer()
    apart = float((mine - theirs).abs().max() / theirs.abs().max())
    if apart > _APART:
        raise ValueError(f"LPIPS: {apart:.1e} of the greatest value apart, more than {_APART:.0e}")
    note = f"{images} pairs of {size} px, fp32 on {CPU}; {apart:.1e} of the greatest value apart"
    return [
        Row(
            "LPIPS in a batch ÷ the reference, pair by pair",
            *interleaved(ours, peer, repeats),
            bound=0.5,
            note=note,
        )
    ]
