"""The planted leak that attackers are tried on: it leaks what it says, faintly, and no release is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_app.core.batch import Batch
from lightning_app.masks.io import save_mask
from lightning_app.release.write.desensitizing import PixelDesensitizer
from tests.planted_leak import PlantedLeak

SIZE = 32


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    made = torch.zeros(1, SIZE, SIZE)
    made[:, 4:14, 6:28] = 1
    save_mask(made, tmp_path / "mask.png")
    return tmp_path / "mask.png"


def batch() -> Batch:
    image = (
        torch.randint(0, 256, (6, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0)).float() / 255
    )
    return {"image": image, "index": torch.arange(6), "identity": torch.arange(6)}


def test_visible_pixels_change_by_four_levels_and_tell_what_is_hidden(mask: Path) -> None:
    raw, leak = batch(), PlantedLeak(mask, side=8)
    out = leak(raw)
    shown = leak.mask.bool().expand(6, 3, -1, -1)
    assert not bool(out["image"][~shown].any())
    change = ((out["image"] - raw["image"]) * 255)[shown]
    assert 0 < float(change.abs().max()) <= 4 + 1e-3
    rows, columns = leak.square
    told = (out["image"] - raw["image"])[:, :, rows, columns].mean(1, keepdim=True) * 255
    assert torch.corrcoef(torch.stack([told.flatten(), leak.offsets(raw["image"]).flatten()]))[0, 1] > 0.95


def test_hidden_pixels_alone_are_leaked(mask: Path) -> None:
    raw, leak = batch()["image"], PlantedLeak(mask, side=8)
    other = torch.where(leak.mask.bool(), torch.rand_like(raw), raw)
    assert torch.equal(leak.offsets(raw), leak.offsets(other))
    assert not torch.equal(leak.offsets(raw), leak.offsets(1 - raw))


def test_the_noise_probe_refuses_a_release(mask: Path) -> None:
    leak, raw = PlantedLeak(mask, side=8), batch()
    made = PixelDesensitizer(leak, SIZE)
    pixels = [(image * 255).round().to(torch.uint8).numpy() for image in raw["image"]]
    with pytest.raises(ValueError, match="PlantedLeak"):
        made(pixels, [0] * 6, list(range(6)))


def test_a_mask_without_such_a_square_is_refused(mask: Path) -> None:
    with pytest.raises(ValueError, match=r"side=16: mask .* shows no square of 16 px"):
        PlantedLeak(mask, side=16)
