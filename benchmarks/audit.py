"""`audit` against decoding and hashing every released file once, one process each; it encodes them again: bound 4."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.timing import Row, interleaved
from lightning_app.desensitize import MaskOut
from lightning_app.masks import freeform_masks, mask_hash, mask_ratio, save_mask
from lightning_app.png import encode_png
from lightning_app.release.audit import audit
from lightning_app.release.finish import mask_facts
from lightning_app.release.manifest import (
    MASK,
    MASK_FACTS,
    TIMESTAMP,
    Manifest,
    MaskEntry,
    image_file,
    made_with,
)
from lightning_app.release.method import describe
from lightning_app.release.tree import entries

SIZE = 112
_EACH = 16  # images of an identity


def measure(repeats: int = 7, images: int = 2048) -> list[Row]:
    """Return a row each for grey and coloured faces.

    Args:
        repeats: timed runs of each.
        images: how many the release has.
    """
    return [_row(channels, repeats, images) for channels in (1, 3)]


def _row(channels: int, repeats: int, images: int) -> Row:
    with _release(images, channels) as root:
        names = [name for name, _ in entries(root) if name.startswith("images/") and name.endswith(".png")]
        found = audit(root, workers=1)
        assert not found.findings, f"the made-up release has {found.findings[:3]}"
        assert len(names) == found.files, f"{found.files} of {len(names)} images were read"
        timing = interleaved(lambda: audit(root, workers=1), lambda: _decode(root, names), repeats)
    return Row(
        f"audit ÷ decoding (Pillow) and hashing every file, {'grey' if channels == 1 else 'colour'}", *timing,
        bound=4.0, note=f"{images} made-up faces of {SIZE} px under a 0.76 mask, {found.bytes / images / 1024:.1f} "
        "KiB each, one process",
    )  # fmt: skip


def _decode(root: Path, names: list[str]) -> None:
    """Do what a plain loop would: read, hash, decode."""
    for name in names:
        data = (root / name).read_bytes()
        hashlib.sha256(data).hexdigest()
        np.asarray(Image.open(io.BytesIO(data)))


@contextmanager
def _release(images: int, channels: int) -> Iterator[Path]:
    """Write a release of smooth noise, about as large as real faces are."""
    rng = np.random.default_rng(0)
    mask = freeform_masks(1, SIZE, (0.755, 0.765), generator=torch.Generator().manual_seed(0))
    visible = mask[0, 0].numpy().astype(np.uint8)
    files: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for number in range(images):
            coarse = rng.integers(0, 256, (14, 14, channels), dtype=np.uint8)
            face = Image.fromarray(coarse.squeeze()).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            pixels = np.asarray(face).reshape(SIZE, SIZE, channels) // 2
            pixels = (pixels + rng.integers(0, 9, pixels.shape, dtype=np.uint8)) * visible[..., None]
            name = image_file(f"{number // _EACH:020x}", f"{number:020x}")
            data = encode_png(np.ascontiguousarray(pixels.squeeze()))
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
            files[name] = hashlib.sha256(data).hexdigest()
        save_mask(mask, root / MASK, **mask_facts(0, "MaskOut", made_with()["faceveil"]))
        files |= {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in (MASK, MASK_FACTS)}
        entry = MaskEntry(MASK, files[MASK], mask_hash(mask), float(mask_ratio(mask[0])))
        people = len({name.split("/")[1] for name in files if "/" in name})
        method = describe(MaskOut(mask=root / MASK), SIZE, mask)
        manifest = Manifest(
            method, SIZE, channels, None, entry, people, images, versions=made_with(), files=files
        )  # fmt: skip
        (root / "manifest.json").write_bytes(manifest.to_bytes())
        for path in [*root.rglob("*"), root]:
            os.utime(path, (TIMESTAMP, TIMESTAMP))
        yield root
