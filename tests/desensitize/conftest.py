from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_app.core.batch import Batch
from lightning_app.core.key_file import write_secret
from lightning_app.masks import freeform_masks, save_mask


def _faces(size: tuple[int, int] = (24, 20), index: tuple[int, ...] = (4, 9, 2, 7)) -> Batch:
    images = [torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(i)) for i in index]
    return Batch(
        image=torch.stack(images) / 255,
        identity=torch.arange(len(index)),
        index=torch.tensor(index),
        bad=torch.tensor([3]),
    )


@pytest.fixture
def faces() -> Callable[..., Batch]:
    """Makes a batch of noise on the uint8 grid, each image a function of its index alone."""
    return _faces


@pytest.fixture
def batch() -> Batch:
    return _faces()


@pytest.fixture
def mask_file(tmp_path: Path) -> Path:
    path = tmp_path / "free.png"
    save_mask(freeform_masks(1, (24, 20), (0.5, 0.6), generator=torch.Generator().manual_seed(1))[0], path)
    return path


@pytest.fixture
def mask_folder(tmp_path: Path) -> Path:
    """Twenty masks of 48×40, black hides, ten in 0.2–0.3 and ten in 0.5–0.6."""
    generator = torch.Generator().manual_seed(2)
    for low in (0.21, 0.51):
        masks = freeform_masks(10, (48, 40), (low, low + 0.07), generator=generator)
        for number, mask in enumerate(masks):
            save_mask(mask, tmp_path / "folder" / f"{low}_{number}.png")
    return tmp_path / "folder"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """One in every run: of random keys, one in a hundred fails a test at a level of one in a hundred."""
    write_secret(tmp_path / "owner.key", hashlib.sha256(b"the noise of these tests").hexdigest().encode())
    return tmp_path / "owner.key"
