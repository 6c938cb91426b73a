"""Checkpoints of maskers that nobody trained: a U-Net of drawn weights, and means of what it makes of drawn images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_app.masks.learned import Growth, codebook_of, grown, shown_pixels, soft_mask
from lightning_app.networks.unet import UNet

SETTINGS: dict[str, Any] = {"masker_width": 8, "masker_depth": 2, "core": 0.25}


def images(count: int, size: int = 16, seed: int = 3) -> Tensor:
    """Noise over two colours an image, on the uint8 grid: `[N,3,H,W]` in [0,1]."""
    draw = torch.Generator().manual_seed(seed)
    blobs = torch.rand(count, 3, 2, 2, generator=draw)
    smooth = torch.nn.functional.interpolate(blobs, size, mode="bilinear")
    noise = 0.3 * torch.rand(count, 3, size, size, generator=draw)
    return ((0.7 * smooth + noise) * 255).round() / 255


def write_masker(
    path: Path,
    size: int = 16,
    rounds: int = 0,
    share: float = 0.25,
    faces: int = 40,
    codes: int = 4,
    seed: int = 1,
    **more: Any,
) -> Path:
    """Write a checkpoint as `fit` of an AdversarialMasker does, as far as `load_masker` reads it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(3, 1, SETTINGS["masker_width"], SETTINGS["masker_depth"]).eval()
    with torch.no_grad():
        found = grown(network, images(faces, size), shown_pixels(share, size), Growth(rounds))
        every = soft_mask(*found)[:, 0]
    kept = {"batches": 12, "mean": every.mean(0), "codes": codebook_of(every, codes), "faces": faces}
    checkpoint = {
        "state_dict": {f"masker.{name}": value for name, value in network.state_dict().items()},
        "hyper_parameters": SETTINGS | {"rounds": rounds, "share": share, "input_size": size},
        "masker": kept | more, "global_step": 12, "pytorch-lightning_version": "2.5.0", "epoch": 0, "loops": {},
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, path)
    return path
