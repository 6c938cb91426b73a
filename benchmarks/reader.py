"""The folder reader against torchvision's ImageFolder with PIL: 250 px JPEG to 112 px batches, bound 0.6."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from datamodules.readers.base import whole
from datamodules.readers.folder import FolderFaces

BATCH, SIZE = 64, 112
TINY: dict[str, Any] = {"repeats": 1, "images": 16, "workers": (0,)}
TINY_SLOW: dict[str, Any] = TINY | {"workers": (2,)}


@contextmanager
def _faces(images: int = 512) -> Iterator[tuple[Path, str]]:
    """Yield LFW-a where it is at hand, else so many grey 250 px JPEGs of much the same number of bytes."""
    here = Path(__file__).resolve().parents[1]
    given = os.environ.get("FACEVEIL_DATA")
    folders = [Path(given)] if given else [here / "data", here.parent / "shared" / "data"]
    for root in [folder / name for folder in folders for name in ("lfw", "lfwa")]:
        if any(root.glob("*/*.jpg")):  # not a folder of archives
            yield root, "LFW-a"
            return
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        for i in range(min(images, 512)):
            coarse = Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8))
            folder = Path(temporary, f"person{i % min(32, max(2, images // 4)):02d}")
            folder.mkdir(exist_ok=True)
            coarse.resize((250, 250), Image.Resampling.BICUBIC).save(folder / f"{i:04d}.jpg", quality=75)
        yield Path(temporary), "made-up JPEGs"


def _runner(loader: Iterable[object]) -> Callable[[], object]:
    return lambda: deque(loader, maxlen=0)


def measure(repeats: int = 5, images: int = 2048, workers: Sequence[int] = (0, 2)) -> list[Row]:
    """Return a row each for no workers and two, for the whole picture and for its central 150 px.

    Args:
        repeats: timed runs of each.
        images: how many are read in a run, in shuffled order.
        workers: processes that read, of each pair of rows.
    """
    with _faces(images) as (root, what):
        return [_row(root, what, crop, number, repeats, images) for crop in (None, 150) for number in workers]


def _row(root: Path, what: str, crop: int | None, workers: int, repeats: int, images: int) -> Row:
    ours = FolderFaces(root, crop=crop, size=SIZE, cache_index=False)
    resize = v2.Resize((SIZE, SIZE), interpolation=v2.InterpolationMode.BILINEAR, antialias=True)
    steps = [resize, v2.PILToTensor()] if crop is None else [v2.CenterCrop(crop), resize, v2.PILToTensor()]
    peer = ImageFolder(str(root), transform=v2.Compose(steps))
    position = {path: i for i, (path, _) in enumerate(peer.samples)}
    order = torch.randperm(len(ours), generator=torch.Generator().manual_seed(0))[:images].tolist()
    batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    theirs = [[position[ours.name(i)] for i in batch] for batch in batches]
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
    part = "whole picture" if crop is None else f"central {crop} px"
    return Row(
        f"folder reader ÷ ImageFolder with PIL, {part}, {workers} workers", *timing, bound=0.6,
        note=f"{what}, {len(order)} images, 250 → {SIZE} px; {differing} of {len(batches)} batches differ (bound 0)",
    )  # fmt: skip
