"""`desensitize` against a plain PIL loop over as many processes, bound 0.8; blur and mosaic per batch against
torchvision per image, bound 0.5.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from benchmarks.reader import _faces
from benchmarks.timing import Row, interleaved
from datamodules.folder import FolderFaces
from datamodules.reader import Subset
from lightning_app.desensitize import Desensitizer, GaussianBlur, MaskOut, Mosaic
from lightning_app.masks import freeform_masks, save_mask
from lightning_app.release.writer import Release, cpus, write_release

SIZE, CROP, CHUNK, BATCH = 112, 150, 64, 64
Mask = NDArray[np.uint8]


def measure(repeats: int = 5, images: int = 2000) -> list[Row]:
    """Return a row for a release under a mask, and one each for blur and mosaic on a batch.

    Args:
        repeats: timed runs of each.
        images: how many are released in a run, the first of the set.
    """
    with _one_thread():
        return [_release(repeats, images), *_per_batch(repeats)]


def _release(repeats: int, images: int) -> Row:
    with _faces() as (root, what), tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        whole = FolderFaces(root, crop=CROP, size=SIZE, cache_index=False)
        order = torch.arange(min(images, len(whole)))  # whole identities: as many folders as in the set
        mask = freeform_masks(1, SIZE, (0.74, 0.78), generator=torch.Generator().manual_seed(0))[0]
        save_mask(mask, folder / "mask.png")
        paths = [whole.name(index) for index in order.tolist()]
        jobs = [
            (paths[start : start + CHUNK], mask[0].to(torch.uint8).numpy(), str(folder / "plain"))
            for start in range(0, len(paths), CHUNK)
        ]
        workers, made = cpus(), []

        def ours() -> None:
            for name in ("released", "owner"):
                shutil.rmtree(folder / name, ignore_errors=True)
            made.append(
                write_release(
                    Subset(whole, order), MaskOut(folder / "mask.png"), folder / "released", folder / "owner",
                    b"k" * 32, workers=workers,
                )
            )  # fmt: skip

        def peer() -> None:
            shutil.rmtree(folder / "plain", ignore_errors=True)
            (folder / "plain").mkdir()
            with multiprocessing.Pool(workers) as pool:
                pool.map(_plain, jobs, chunksize=1)

        timing = interleaved(ours, peer, repeats)
        differing = sum(_differ(folder, made[-1], whole, paths, order.tolist()))
        sizes = [
            sum(f.stat().st_size for f in (folder / name).rglob("*.png")) for name in ("released", "plain")
        ]
    return Row(
        f"desensitize ÷ plain PIL loop, {workers} processes each", *timing, bound=0.8,
        note=f"{what}, {len(paths)} images, 250 → {SIZE} px; {differing} images differ (bound 0); "
        f"{sizes[0] / sizes[1]:.2f} of the peer's bytes",
    )  # fmt: skip


def _plain(job: tuple[list[str], Mask, str]) -> None:
    """What one would write by hand: open, crop, resize, multiply, save."""
    paths, mask, folder = job
    for path in paths:
        with Image.open(path) as image:
            left, top = round((image.width - CROP) / 2), round((image.height - CROP) / 2)
            face = image.crop((left, top, left + CROP, top + CROP)).resize(
                (SIZE, SIZE), Image.Resampling.BILINEAR
            )
        pixels = np.asarray(face)
        hidden = pixels * (mask if pixels.ndim == 2 else mask[:, :, None])
        out = Path(folder, Path(path).parent.name)
        out.mkdir(exist_ok=True)
        Image.fromarray(hidden).save(out / f"{Path(path).stem}.png")


def _differ(
    folder: Path, made: Release, whole: FolderFaces, paths: list[str], order: list[int]
) -> Iterator[bool]:
    """Compare each released image with the peer's."""
    for place in range(len(made.plan)):
        path = Path(whole.name(order[made.plan.index(place)]))
        with (
            Image.open(folder / "released" / made.plan.file(place)) as mine,
            Image.open(folder / "plain" / path.parent.name / f"{path.stem}.png") as theirs,
        ):
            yield not np.array_equal(np.asarray(mine), np.asarray(theirs))


def _per_batch(repeats: int) -> list[Row]:
    faces = torch.randint(
        0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    small = v2.Resize(SIZE // 8, InterpolationMode.BILINEAR, antialias=True)
    large = v2.Resize(SIZE, InterpolationMode.NEAREST)
    methods: list[tuple[str, Desensitizer, Callable[[Tensor], Tensor]]] = [
        ("Gaussian blur, kernel 9", GaussianBlur(9), v2.GaussianBlur(9, 1.7)),
        ("mosaic, block 8", Mosaic(8), lambda image: large(small(image))),
    ]
    images = faces.float() / 255
    rows = []
    for name, ours, peer in methods:

        def each(peer: Callable[[Tensor], Tensor] = peer) -> Tensor:
            return torch.stack([peer(image) for image in images])

        def together(ours: Desensitizer = ours) -> Tensor:
            return ours.veil(images)

        apart = float((together() - each()).abs().max())
        rows.append(
            Row(
                f"{name}, {BATCH}×3×{SIZE}×{SIZE} ÷ torchvision image by image", *interleaved(together, each, repeats),
                bound=0.5, note=f"1 thread; largest difference {apart:.1e}",
            )
        )  # fmt: skip
    return rows


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
