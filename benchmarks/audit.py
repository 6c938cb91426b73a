"""`audit` against decoding and hashing every released file once, one process each; bound 4.

`audit` encodes every image anew and compares the bytes; that is what the bound leaves room for.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.timing import Row, interleaved
from datamodules.readers.folder import FolderFaces
from lightning_app.desensitize import MaskOut
from lightning_app.masks import freeform_masks, save_mask
from lightning_app.release.audit.run import audit
from lightning_app.release.format.names import is_image_file
from lightning_app.release.format.tree import entries
from lightning_app.release.write.writer import write_release

TINY: dict[str, Any] = {"repeats": 1, "images": 6, "size": 24}
_EACH = 16  # images of an identity


def measure(repeats: int = 7, images: int = 2048, size: int = 112) -> list[Row]:
    """Return a row each for grey and coloured faces.

    Args:
        repeats: timed runs of each.
        images: how many the release has.
        size: side of the images in pixels.
    """
    return [_row(channels, repeats, images, size) for channels in (1, 3)]


def _row(channels: int, repeats: int, images: int, size: int) -> Row:
    with _release(images, channels, size) as root:
        names = [name for name, _ in entries(root) if is_image_file(name)]
        found = audit(root, workers=1)
        faults = [f"{finding.file} {finding.what}" for finding in found.findings]
        assert not faults, f"audit has {len(faults)} findings in an honest release, the first: {faults[0]}"
        assert len(names) == images == found.files, (
            f"of {images} images {len(names)} were released and {found.files} audited"
        )
        timing = interleaved(lambda: audit(root, workers=1), lambda: _decode(root, names), repeats)
    return Row(
        f"audit ÷ decoding (Pillow) and hashing every file, {'grey' if channels == 1 else 'colour'}", *timing,
        bound=4, note=f"{images} made-up faces of {size} px under a 0.76 mask, {found.bytes / images / 1024:.1f} "
        "KiB each, one process",
    )  # fmt: skip


def _decode(root: Path, names: list[str]) -> None:
    """Do what a plain loop would: read, hash, decode."""
    for name in names:
        data = (root / name).read_bytes()
        hashlib.sha256(data).hexdigest()
        np.asarray(Image.open(io.BytesIO(data)))


@contextmanager
def _release(images: int, channels: int, size: int) -> Iterator[Path]:
    """Release smooth noise, about as large as real faces are, as `desensitize` does."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        save_mask(
            freeform_masks(1, size, (0.755, 0.765), generator=torch.Generator().manual_seed(0))[0],
            home / "mask.png",
        )
        for number in range(images):
            coarse = rng.integers(0, 256, (14, 14, channels), dtype=np.uint8)
            face = Image.fromarray(coarse.squeeze()).resize((size, size), Image.Resampling.BICUBIC)
            pixels = np.asarray(face).reshape(size, size, channels) // 2
            pixels = pixels + rng.integers(0, 9, pixels.shape, dtype=np.uint8)
            folder = home / "raw" / f"{number % max(2, images // _EACH):06d}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.squeeze()).save(folder / f"{number:06d}.png", compress_level=1)
        write_release(
            FolderFaces(home / "raw", size=size, cache_index=False), MaskOut(home / "mask.png"), home / "released",
            home / "owner", bytes(range(32)), workers=0,
        )  # fmt: skip
        yield home / "released"
