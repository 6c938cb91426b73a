"""What methods with a privacy budget are made of: a checkpoint's budget, other people's components, one of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_app.desensitize import DCTDP, BlockDCT, Desensitizer, EigenfaceNoise, LaplaceNoise
from lightning_app.desensitize.eigenfaces import Eigenfaces

SMALL = {"block": 4, "upsample": 1, "stride": 4}


def checkpoint(path: Path, logits: Tensor | None = None, **settings: object) -> Path:
    """What `fit` writes for a DCTDPRecogniser, of it what is read here."""
    made = BlockDCT(**(SMALL | settings))  # type: ignore[arg-type]
    logits = torch.linspace(-1, 1, made.out_channels) if logits is None else logits
    torch.save(
        {
            "state_dict": {"noise.logits": logits, "backbone.weight": torch.zeros(3)},
            "hyper_parameters": {"_class_path": "lightning_app.models.DCTDPRecogniser"},
            "FaceDataModule": {"desensitizer": made.describe()},
        },
        path,
    )
    return path


def other_people(path: Path, components: int = 4, side: int = 8) -> Path:
    generator = torch.Generator().manual_seed(77)
    return Eigenfaces.of(
        [torch.randint(0, 256, (20, 3, 32, 32), generator=generator, dtype=torch.uint8) for _ in range(2)],
        components, side,
    ).write(path)  # fmt: skip


def every(folder: Path, key: Path | None, **options: Any) -> list[Desensitizer]:
    """One of each."""
    return [
        LaplaceNoise(key=key, **options),
        EigenfaceNoise(other_people(folder / "other.safetensors"), key=key, **options),
        DCTDP(checkpoint(folder / "budget.ckpt"), key=key, **options),
    ]
