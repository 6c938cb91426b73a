"""`desensitize`, its noise probe in it, against a plain PIL loop over as many processes, bound 0.95; its files against
Pillow's optimised ones, bound 1.3; blur and mosaic per batch against torchvision per image, bound 0.5.
"""

from __future__ import annotations

import io
import logging
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from benchmarks.reader import _faces
from benchmarks.timing import Row, interleaved
from datamodules.readers.folder import FolderFaces
from datamodules.readers.subset import Subset
from lightning_app.core.threads import one_thread
from lightning_app.desensitize import Desensitizer, GaussianBlur, MaskOut, Mosaic
from lightning_app.masks import freeform_masks, save_mask
from lightning_app.release.write.writer import Release, cpus, write_release

SIZE, CROP, CHUNK = 112, 150, 64
TINY: dict[str, Any] = {"repeats": 1, "images": 4, "batch": 2, "workers": 0}
TINY_SLOW: dict[str, Any] = TINY | {"workers": 1}
Mask = NDArray[np.uint8]


def measure(repeats: int = 5, images: int = 2000, batch: int = 64, workers: int | None = None) -> list[Row]:
    """Return two rows for a release under a mask, and one each for blur and mosaic on a batch.

    Args:
        repeats: timed runs of each.
        images: how many are released in a run, the first of the set.
        batch: images that are blurred at a time.
        workers: processes of both sides; one per CPU by default, 0 works in this one.
    """
    with one_thread(), _quiet():
        return [
            *_release(repeats, images, cpus() if workers is None else workers),
            *_per_batch(repeats, batch),
        ]


def _release(repeats: int, images: int, workers: int) -> list[Row]:
    with _faces(images) as (root, what), tempfile.TemporaryDirectory() as temporary:
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
        made = []

        def ours() -> None:
            for name in ("released", "owner"):
                shutil.rmtree(folder / name, ignore_errors=True)
            made.append(
                write_release(
                    Subset(whole, order), MaskOut(folder / "mask.png"), folder / "released", folder / "owner",
                    bytes(range(32)), workers=workers,
                )
            )  # fmt: skip

        def peer() -> None:
            shutil.rmtree(folder / "plain", ignore_errors=True)
            (folder / "plain").mkdir()
            if not workers:
                for job in jobs:
                    _plain(job)
                return
            with multiprocessing.Pool(workers) as pool:
                pool.map(_plain, jobs, chunksize=1)

        timing = interleaved(ours, peer, repeats)
        differing = sum(_differ(folder, made[-1], whole, paths, order.tolist()))
        written, optimised = _bytes((folder / "released" / "images").rglob("*.png"))
    assert not differing, f"{differing} of {len(paths)} released images are not those of the plain loop"
    note = f"{what}, {len(paths)} images, 250 → {SIZE} px"
    grown = written / optimised
    return [
        Row(f"desensitize ÷ plain PIL loop, {workers} processes each", *timing, bound=0.95,
            note=f"{note}; every image equals the peer's"),
        Row("released bytes ÷ those of Pillow's optimised PNG", written / 1e6, optimised / 1e6, grown, grown, grown,
            bound=1.3, note=f"{note} (the columns are MB)"),
    ]  # fmt: skip


def _bytes(files: Iterable[Path]) -> tuple[int, int]:
    """Sum the bytes of files, and what they would be if Pillow wrote them as small as it can."""
    written, optimised = 0, 0
    for file in files:
        with Image.open(file) as image:
            again = io.BytesIO()
            image.save(again, format="PNG", optimize=True)
        written, optimised = written + file.stat().st_size, optimised + len(again.getvalue())
    return written, optimised


def _plain(job: tuple[list[str], Mask, str]) -> None:
    """Do what one would write by hand: open, crop, resize, multiply, save."""
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


def _per_batch(repeats: int, batch: int) -> list[Row]:
    faces = torch.randint(
        0, 256, (batch, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
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
            return ours.desensitize(images)

        apart = float((together() - each()).abs().max())
        rows.append(
            Row(
                f"{name}, {batch}×3×{SIZE}×{SIZE} ÷ torchvision image by image", *interleaved(together, each, repeats),
                bound=0.5, note=f"1 thread; largest difference {apart:.1e}",
            )
        )  # fmt: skip
    return rows


@contextmanager
def _quiet() -> Iterator[None]:
    """Let `desensitize` not say each time that it resizes."""
    log = logging.getLogger("faceveil")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
