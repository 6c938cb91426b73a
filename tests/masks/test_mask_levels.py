from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_app.masks import MaskLevels, load_mask, mask_ratio, save_mask


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder of 256 px masks, white holes: ratios 1/16, 1/8, 1/4, 1/2 (as three equal channels), 0, 1."""
    root = tmp_path / "foreign"
    (root / "deeper").mkdir(parents=True)
    for name, rows in (("a", 16), ("b", 32), ("c", 64), ("deeper/d", 128), ("nothing", 0), ("all", 256)):
        pixels = np.zeros((256, 256), dtype=np.uint8)
        pixels[:rows] = 255
        Image.fromarray(np.stack([pixels] * 3, -1) if name == "deeper/d" else pixels).save(
            root / f"{name}.png"
        )
    (root / "._a.png").write_bytes(b"what another system leaves behind")
    return root


def test_levels_are_found_logged_and_chosen(foreign: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lightning_app.masks.levels"):
        levels = MaskLevels(foreign, 64)
    assert levels.files == ["a.png", "b.png", "c.png", "deeper/d.png"]
    assert levels.ratios.tolist() == [1 / 16, 1 / 8, 1 / 4, 1 / 2]
    assert len(levels) == 4
    assert list(levels.counts.values()) == [1, 1, 1, 0, 1, 0]
    assert caplog.messages == [
        f"4 masks in {foreign} at 64×64 by mask ratio: 0.01–0.1: 1, 0.1–0.2: 1, 0.2–0.3: 1, 0.3–0.4: 0, "
        "0.4–0.5: 1, 0.5–0.6: 0 (ratios from 0.062 to 0.500); 2 blank ones left out"
    ]
    masks = levels.masks(torch.tensor([3, 0, 3]))
    assert masks.shape == (3, 1, 64, 64)
    assert torch.equal(masks[0], masks[2])
    assert masks[0, 0, :32].sum() == 0
    assert masks[0, 0, 32:].all()
    chosen = MaskLevels(foreign, 64, levels=[(0.2, 0.3), (0.4, 0.5)])
    assert chosen.files == ["c.png", "deeper/d.png"], "a level ends with its upper bound"
    assert MaskLevels(foreign, 64, levels=[(0.1, 0.25)]).files == ["b.png", "c.png"]


def test_polarity(foreign: Path) -> None:
    white, black = MaskLevels(foreign, 64), MaskLevels(foreign, 64, hidden="black")
    assert torch.equal(white.masks(torch.arange(4)), 1 - black.masks(torch.arange(4)))
    assert black.ratios.tolist() == [15 / 16, 7 / 8, 3 / 4, 1 / 2]


def test_resizing_takes_the_nearest_pixel(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 2, (256, 256), dtype=np.uint8) * 255
    Image.fromarray(pixels).save(tmp_path / "m.png")
    # the centre of pixel i of 112 lies at (i + 0.5)·256/112 of 256
    nearest = np.floor((np.arange(112) + 0.5) * 256 / 112).astype(int)
    found = MaskLevels(tmp_path, 112).masks(torch.tensor([0]))[0, 0].numpy()
    np.testing.assert_array_equal(found, pixels[np.ix_(nearest, nearest)] == 0)


def test_our_own_masks_read_as_black_hides(tmp_path: Path) -> None:
    mask = (torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    save_mask(mask, tmp_path / "m.png")
    levels = MaskLevels(tmp_path, 16, hidden="black")
    assert torch.equal(levels.masks(torch.tensor([0]))[0], load_mask(tmp_path / "m.png"))
    assert float(levels.ratios[0]) == pytest.approx(mask_ratio(mask), abs=1e-7)


def test_errors(foreign: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="folder nowhere: no such folder of masks"):
        MaskLevels("nowhere", 64)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no PNG masks"):
        MaskLevels(tmp_path / "empty", 64)
    with pytest.raises(
        ValueError, match=r"levels: no mask in .* has a mask ratio in 0.5–0.6; there are 0.01–0.1: 1, "
    ):
        MaskLevels(foreign, 64, levels=[(0.4, 0.5), (0.5, 0.6)])
    with pytest.raises(ValueError, match=r"outside these: 3 .* set hidden to white"):
        MaskLevels(foreign, 64, levels=[(0.2, 0.3)], hidden="black")
    with pytest.raises(ValueError, match="levels: is empty"):
        MaskLevels(foreign, 64, levels=[])
    with pytest.raises(ValueError, match=re.escape("levels: [0.5, 0.4] is not a range")):
        MaskLevels(foreign, 64, levels=[(0.5, 0.4)])
    with pytest.raises(ValueError, match="hidden: 'grey' is neither"):
        MaskLevels(foreign, 64, hidden="grey")  # type: ignore[arg-type]


def test_bad_files(foreign: Path) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    Image.fromarray(ramp).save(foreign / "photo.png")
    with pytest.raises(ValueError, match=r"photo\.png is no mask: 50% of its pixels"):
        MaskLevels(foreign, 64)
    Image.fromarray(ramp.astype(np.uint16)).save(foreign / "photo.png")
    with pytest.raises(ValueError, match=r"photo\.png cannot be read \(mode I;16"):
        MaskLevels(foreign, 64)
    (foreign / "photo.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"photo\.png cannot be read"):
        MaskLevels(foreign, 64)
    for name in ("photo", "a", "b", "c", "deeper/d"):
        (foreign / f"{name}.png").unlink()
    with pytest.raises(ValueError, match="each of its 2 masks hides everything or nothing"):
        MaskLevels(foreign, 64)
