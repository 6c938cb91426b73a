"""Peak memory of `fit` against the number of images in the set, cache off: bound 200 bytes per image."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.timing import Row

TINY_SLOW: dict[str, Any] = {"repeats": 1, "small": 100, "large": 300, "times": 1}
_FIT = """
import sys
from lightning_app.core.memory import peak_memory
from main import main
main(["fit", "--config", sys.argv[1], "--runs", sys.argv[2]])
print("PEAK", peak_memory())
"""
_CONFIG = """
trainer: {{accelerator: cpu, max_steps: 4, logger: false, enable_model_summary: false}}
model: {{class_path: lightning_app.models.ResNet, init_args: {{backbone: resnet18}}}}
data:
  class_path: datamodules.FaceDataModule
  init_args:
    global_batch_size: 8
    reader: {{class_path: datamodules.FolderFaces, init_args: {{root: {root}, size: 32}}}}
"""


def _peak(images: int, folder: Path, times: int) -> int:
    """Run `fit` for four steps on a tree of hard links to an image per person, in a process of its own: bytes."""
    root = folder / f"tree{images}"
    for who in range(100):
        home = root / f"person_{who:04d}"
        home.mkdir(parents=True)
        Image.new("L", (32, 32), 128).save(home / "000000_01.png")
        for i in range(1, images // 100):
            os.link(home / "000000_01.png", home / f"{i:06d}_01.png")
    config = folder / f"c{images}.yaml"
    config.write_text(_CONFIG.format(root=root))
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    peaks: list[int] = []
    for _ in range(times):  # the second finds the scan cached, as all but a first run do; the higher counts
        done = subprocess.run(
            [sys.executable, "-c", _FIT, str(config), str(folder / f"runs{len(peaks)}_{images}")],
            capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
        assert not done.returncode, f"fit on {images} images: {done.stderr.strip().splitlines()[-1:]}"
        peaks.append(
            int(next(line for line in done.stdout.splitlines() if line.startswith("PEAK")).split()[1])
        )
    return max(peaks)


def measure(repeats: int = 1, small: int = 2_000, large: int = 202_000, times: int = 2) -> list[Row]:
    """Return one row whose metrics are bytes per image, not seconds.

    Args:
        repeats: measured pairs of runs; the largest growth counts.
        small: images of the smaller set.
        large: of the larger one.
        times: runs on each set.
    """
    grown = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            less, more = (_peak(images, Path(folder), times) for images in (small, large))
        grown.append((more - less) / (large - small))
    note = f"bytes per image in peak memory, {small} → {large} images (the columns are GB of each peak)"
    return [
        Row("memory of fit per image", more / 1e9, less / 1e9, max(grown), min(grown), max(grown), 200, note)
    ]
