"""DSSIM against torchmetrics' SSIM on the CPU, 64×3×224×224: bound 0.2 of the time, 1e-5 apart."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from benchmarks.timing import Row, interleaved
from lightning_app.metrics import ssim


def _drawn(count: int, size: int) -> tuple[Tensor, Tensor]:
    # shapes with noise, and the same with the middle hidden
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    a = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    a = (a + 0.05 * torch.randn(a.shape, generator=generator)).clamp(0, 1)
    b = a.clone()
    b[..., size // 4 : -size // 4, size // 4 : -size // 4] = 0
    return a, b


def measure(repeats: int = 5) -> list[Row]:
    """Return one row for all of torch's threads and one for a single thread.

    Args:
        repeats: timed runs of each.
    """
    a, b = _drawn(64, 224)

    def ours() -> Tensor:
        return ssim(a, b)

    def peer() -> Tensor:
        found = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
        assert isinstance(found, Tensor)
        return found

    threads = torch.get_num_threads()
    difference = (ours() - peer()).abs().max().item()
    rows = []
    for number in sorted({1, threads}):
        torch.set_num_threads(number)
        try:
            timing = interleaved(ours, peer, repeats)
        finally:
            torch.set_num_threads(threads)
        rows.append(
            Row(
                f"dSSIM ÷ torchmetrics, 64×3×224×224, {number} thread{'s' if number > 1 else ''}",
                *timing,
                bound=0.2,
                note=f"max difference {difference:.1e} (bound 1e-5)",
            )
        )
    return rows
