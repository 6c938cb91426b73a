"""Draw the pictures of `docs/masks.md`: the four kinds of learned masks, on drawn faces.

Trains two maskers on drawn faces first, one that looks at whole images and one that grows its masks (minutes on a CPU):

    python docs/learned/draw.py --runs runs/learned

Each picture has six faces: as drawn, their masks (white = visible), and what is released.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from datamodules import DrawnFaces  # noqa: E402
from lightning_app.desensitize import LearnedMask  # noqa: E402

SIZE, FACES, GAP = 64, 6, 4
KINDS = {"population": "whole", "codebook": "whole", "core_first": "grown", "free": "whole"}


def train(runs: Path, name: str, rounds: int) -> Path:
    """Train a masker on drawn faces, unless it is there."""
    checkpoint = runs / name / "checkpoints/last.ckpt"
    if not checkpoint.exists():
        command = [
            sys.executable, "main.py", "fit", "--config", "demo_masker.yaml", "--name", name, "--runs", str(runs),
            "--trainer.accelerator", "cpu", "--trainer.max_epochs", "8", "--model.rounds", str(rounds), "--overwrite",
            "--model.faces", "96", "--model.masker_depth", "3", "--data.reader.init_args.identities", "12",
            "--data.reader.init_args.images_per_identity", "12", "--data.reader.init_args.size", str(SIZE),
        ]  # fmt: skip
        subprocess.run(command, cwd=ROOT, check=True)
    return checkpoint


def picture(rows: list[Tensor]) -> Image.Image:
    """Put rows of pictures `[FACES,3,SIZE,SIZE]` in [0,1] under one another, on grey."""
    step = SIZE + GAP
    sheet = torch.full((3, len(rows) * step + GAP, FACES * step + GAP), 0.5)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            top, left = GAP + row * step, GAP + column * step
            sheet[:, top : top + SIZE, left : left + SIZE] = image
    return Image.fromarray((sheet * 255).round().byte().permute(1, 2, 0).numpy())


def main() -> None:
    """Train what is missing, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    runs: Path = parser.parse_args().runs.resolve()
    trained = {name: train(runs, f"learned_{name}", rounds) for name, rounds in (("whole", 0), ("grown", 4))}
    faces = DrawnFaces(FACES, 1, SIZE, first_identity=500)
    image = torch.cat([faces[index]["image"] for index in range(FACES)]).float() / 255
    for kind, name in KINDS.items():
        made = LearnedMask(trained[name], 0.24, kind)  # type: ignore[arg-type]
        out = made({"image": image, "index": torch.arange(FACES)})
        mask = out["mask"]
        assert mask is not None
        each = mask[out["mask_index"]].expand(-1, 3, -1, -1)
        path = Path(__file__).parent / f"{kind}.png"
        picture([image, each, out["image"]]).save(path, optimize=True)
        print(path, made.describe()["bits"], "bits")


if __name__ == "__main__":
    main()
