"""The folder reader against torchvision's ImageFolder with PIL: 250 px JPEG to 112 px batches, bound 0.6."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.timing import Row, interleaved
from datamodules.folder import FolderFaces
from datamodules.reader import whole

BATCH, SIZE = 64, 112


@contextmanager
def _faces() -> Iterator[tuple[Path, str]]:
    """Give LFW-a where it is at hand, else grey 250 px JPEGs of much the same number of bytes."""
    here = Path(__file__).resolve().parents[1]
    given = os.environ.get("FACEVEIL_DATA")
    folders = [Path(given)] if given else [here / "data", here.parent / "shared" / "data"]
    for root in [folder / name for folder in folders for name in ("lfw", "lfwa")]:
        if root.is_dir():
            yield root, "LFW-a"
            return
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        for i in range(512):
            coarse = Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8))
            folder = Path(temporary, f"person{i % 32:02d}")
            folder.mkdir(exist_ok=True)
            coarse.resize((250, 250), Image.Resampling.BICUBIC).save(folder / f"{i:04d}.jpg", quality=75)
        yield Path(temporary), "made-up JPEGs"


def _runner(loader: Iterable[object]) -> Callable[[], object]:
    return lambda: deque(loader, maxlen=0)


def measure(repeats: int = 5, images: int = 2048) -> list[Row]:
    """Return one row for no workers and one for two.

    Args:
        repeats: timed runs of each.
        images: how many are read in a run, in shuffled order.
    """
    rows = []
    with _faces() as (root, what):
        ours = FolderFaces(root, size=SIZE, cache_index=False)
        resize = v2.Resize((SIZE, SIZE), interpolation=v2.InterpolationMode.BILINEAR, antialias=True)
        peer = ImageFolder(str(root), transform=v2.Compose([resize, v2.PILToTensor()]))
        position = {path: i for i, (path, _) in enumerate(peer.samples)}
        order = torch.randperm(len(ours), generator=torch.Generator().manual_seed(0))[:images].tolist()
        batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
        theirs = [[position[ours.name(i)] for i in batch] for batch in batches]
        for workers in (0, 2):
            # persistent: starting processes is not what is measured
            shared: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
            mine: DataLoader[Any] = DataLoader(ours, batch_sampler=batches, collate_fn=whole, **shared)
            plain: DataLoader[Any] = DataLoader(peer, batch_sampler=theirs, **shared)
            differing = sum(
                not torch.equal(a["image"], b[0]) or not torch.equal(a["identity"], b[1])
                for a, b in zip(mine, plain, strict=True)
            )
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # as in a worker; more only makes torchvision's small copies wait
            try:
                timing = interleaved(_runner(mine), _runner(plain), repeats)
            finally:
                torch.set_num_threads(threads)
            rows.append(
                Row(
                    f"folder reader ÷ ImageFolder with PIL, {len(order)} images, {workers} workers",
                    *timing,
                    bound=0.6,
                    note=f"{what}, 250 → {SIZE} px; {differing} of {len(batches)} batches differ (bound 0)",
                )
            )
    return rows
