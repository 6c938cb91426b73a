"""DSSIM against torchmetrics' SSIM on the CPU, 64×3×224×224: bound 0.2 of the time, 1e-5 apart.

In fp32 torchmetrics loses digits where an image is bright and flat (E[x²] − E[x]² against C2 = 9e-4), up to
some 1e-5 in an image's mean; ours does not. So the note gives the distance to it in fp32 and in fp64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from benchmarks.timing import Row, interleaved
from lightning_app.metrics import ssim

TINY: dict[str, Any] = {"repeats": 1, "images": 2, "size": 24}


def _drawn(count: int, size: int) -> tuple[Tensor, Tensor]:
    # shapes with noise and, as photographs have it, a blown-out corner; and the same with the middle hidden
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    a = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    a = (a + 0.05 * torch.randn(a.shape, generator=generator)).clamp(0, 1)
    a[..., : size // 3, : size // 3] = 0.97 + 0.002 * torch.rand(
        a[..., : size // 3, : size // 3].shape, generator=generator
    )
    b = a.clone()
    b[..., size // 4 : -size // 4, size // 4 : -size // 4] = 0
    return a, b


def measure(repeats: int = 5, images: int = 64, size: int = 224) -> list[Row]:
    """Return one row for all of torch's threads and one for a single thread.

    Args:
        repeats: timed runs of each.
        images: of a batch.
        size: side of the images in pixels.
    """
    a, b = _drawn(images, size)

    def ours() -> Tensor:
        return ssim(a, b)

    def peer() -> Tensor:
        found = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
        assert isinstance(found, Tensor), f"torchmetrics returned a {type(found).__name__}"
        return found

    threads = torch.get_num_threads()
    apart = (ours() - peer()).abs().max().item()
    few = a[:8].double(), b[:8].double()
    exact = structural_similarity_index_measure(*few, data_range=1.0, reduction="none")
    assert isinstance(exact, Tensor), f"torchmetrics returned a {type(exact).__name__}"
    apart_exact = (ours()[:8] - exact).abs().max().item()
    rows = []
    for number in sorted({1, threads}):
        torch.set_num_threads(number)
        try:
            timing = interleaved(ours, peer, repeats)
        finally:
            torch.set_num_threads(threads)
        rows.append(
            Row(
                f"dSSIM ÷ torchmetrics, {images}×3×{size}×{size}, {number} thread{'s' if number > 1 else ''}",
                *timing,
                bound=0.2,
                note=f"max difference {apart:.1e} to the peer in fp32, {apart_exact:.1e} in fp64 (bound 1e-5)",
            )
        )
    return rows
