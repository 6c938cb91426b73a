"""A release of representations against the same transform and a plain safetensors dump, bound 1.2; its audit against
reading and hashing every shard, bound 1.5; a step of `fit` on it against the transform on the fly, bound 1.05.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.fit import _fit_step, _paired
from benchmarks.release import _quiet
from benchmarks.timing import Row, interleaved
from datamodules import DrawnFaces, FaceDataModule, ReleasedFaces
from datamodules.readers.folder import FolderFaces
from lightning_app.core.png import encode_png
from lightning_app.core.threads import one_thread
from lightning_app.desensitize import FrequencyMask
from lightning_app.models import ResNet
from lightning_app.networks.backbones.resnet import BackboneName
from lightning_app.release.audit.run import audit
from lightning_app.release.write.writer import write_release

TINY: dict[str, Any] = {"repeats": 1, "images": 8, "size": 32, "batch": 2, "steps": 1, "warmup": 0}
_PEOPLE, _AT_A_TIME, _SHARD = 4, 8, 40


def measure(
    repeats: int = 5,
    images: int = 400,
    size: int = 112,
    batch: int = 64,
    steps: int = 4,
    network: BackboneName = "resnet18",
    warmup: int = 1,
) -> list[Row]:
    """Return a row each for release, audit and a step of `fit`.

    Args:
        repeats: timed runs of each.
        images: how many the release has.
        size: side of the images in pixels.
        batch: images a step.
        steps: of a run of `fit`; the images must be enough for so many and two more.
        network: the backbone.
        warmup: untimed runs of `fit` before.
    """
    for noisy in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with _quiet(), _home(images, size) as home, one_thread():
        raw = FolderFaces(home / "raw", size=size, cache_index=False).open()
        key = home / "owner.key"

        def ours() -> None:
            for name in ("released", "owner"):
                shutil.rmtree(home / name, ignore_errors=True)
            write_release(
                raw, FrequencyMask(key=key), home / "released", home / "owner", bytes(range(32)), workers=0
            )

        def peer() -> None:
            _dump(raw, FrequencyMask(key=key), home / "plain")

        rows = [
            Row("release ÷ the same transform and a plain safetensors dump", *interleaved(ours, peer, repeats),
            bound=1.2,
                note=f"{images} images of {size} px, 63 channels, uint8, one process each")
        ]  # fmt: skip
        found = audit(home / "released")
        assert not found.findings, (
            f"audit has {len(found.findings)} findings in an honest release: {found.findings[0]}"
        )
        shards = sorted((home / "released" / "shards").iterdir())
        timing = interleaved(lambda: audit(home / "released"), lambda: _hash(shards), repeats)
        rows.append(
            Row("audit ÷ reading and hashing every shard", *timing, bound=1.5,
                note=f"{found.bytes / 1e6:.0f} MB in {len(shards)} shards")
        )  # fmt: skip
        rows.append(_steps(home, raw, repeats, batch, steps, network, warmup))
    return rows


def _steps(
    home: Path, raw: FolderFaces, repeats: int, batch: int, steps: int, network: BackboneName, warmup: int
) -> Row:
    def step(released: bool) -> float:
        if released:
            data = FaceDataModule(
                ReleasedFaces(home / "released", verify="list"), global_batch_size=batch, seed=0
            )
        else:
            data = FaceDataModule(
                raw, FrequencyMask(key=home / "owner.key"), global_batch_size=batch, seed=0, cache=True
            )
        return _fit_step(
            ResNet(network, num_classes=_PEOPLE, input_size=raw.size, in_channels=63), data, steps
        )

    return _paired(
        f"step of {network} on a release ÷ on the fly, batch {batch}", lambda: step(True), lambda: step(False), repeats,
        warmup, 1.05, "rows read from the shards in the step; on the fly from pixels in memory",
    )  # fmt: skip


def _dump(raw: FolderFaces, desensitizer: FrequencyMask, folder: Path) -> None:
    """Do what one would write by hand: read, transform, quantise, save."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    desensitizer.prepare((raw.size, raw.size))
    for start in range(0, len(raw), _SHARD):
        parts = []
        for at in range(start, min(start + _SHARD, len(raw)), _AT_A_TIME):
            batch = raw.__getitems__(range(at, min(at + _AT_A_TIME, start + _SHARD, len(raw))))
            image = desensitizer.forward({"image": batch["image"].float() / 255, "index": batch["index"]})[
                "image"
            ]
            parts.append((image * 16 + 128).round_().clamp_(0, 255).to(torch.uint8))
        save_file({"image": torch.cat(parts)}, folder / f"{start}.safetensors")


def _hash(shards: list[Path]) -> None:
    for shard in shards:
        hashlib.sha256(shard.read_bytes()).hexdigest()


@contextmanager
def _home(images: int, size: int) -> Iterator[Path]:
    """Draw faces into a tree of PNGs, with an owner's key beside it."""
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        key = home / "owner.key"
        key.write_text(secrets.token_hex(32))
        key.chmod(0o600)
        drawn = DrawnFaces(_PEOPLE, -(-images // _PEOPLE), size=size)
        for index in range(images):
            folder = home / "raw" / f"{int(drawn.labels[index]):03d}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = drawn.read(index)
            (folder / f"{index:05d}.png").write_bytes(encode_png(pixels.transpose(1, 2, 0).squeeze()))
        yield home
