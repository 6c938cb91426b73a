from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lightning_app.masks import load_mask, mask_hash, mask_ratio, save_mask
from lightning_app.masks.bits import pack_masks, unpack_masks


@pytest.fixture
def mask() -> Tensor:
    """One mask [1,12,16] with a third of its pixels hidden, nowhere symmetric."""
    one = torch.ones(1, 12, 16)
    one[:, 2:10, 1:9] = 0
    return one


def picture(path: Path, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Path:
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("shape", [(12, 16), (1, 12, 16), (1, 1, 12, 16)])
def test_round_trip(mask: Tensor, tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "new" / "m.png"
    save_mask(mask.view(shape), path, seed=3, objective=None)
    back = load_mask(path, (12, 16))
    assert back.dtype == torch.float32
    assert torch.equal(back, mask)
    with Image.open(path) as image:
        assert image.mode == "L"
        assert set(np.unique(np.asarray(image))) == {0, 255}
    facts = json.loads(path.with_suffix(".json").read_text())
    assert facts["mask_ratio"] == 64 / 192
    assert facts["size"] == [12, 16]
    assert facts["file_hash"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert facts["mask_hash"] == mask_hash(mask)
    assert (facts["seed"], facts["objective"]) == (3, None)
    assert sorted(p.name for p in path.parent.iterdir()) == ["m.json", "m.png"], "a temporary file was left"


def test_hash_is_of_shape_and_pixels(mask: Tensor) -> None:
    packed = np.packbits(mask.numpy().astype(bool).reshape(-1)).tobytes()
    assert mask_hash(mask) == hashlib.sha256(b"1x12x16" + packed).hexdigest()
    assert mask_hash(mask.bool()[0]) == mask_hash(mask[None]) == mask_hash(mask)
    assert mask_hash(mask.view(1, 16, 12)) != mask_hash(mask)
    other = mask.clone()
    other[0, 0, 0] = 0
    assert mask_hash(other) != mask_hash(mask)


def test_mask_ratio_of_one_and_of_a_batch(mask: Tensor) -> None:
    assert mask_ratio(mask) == 64 / 192
    assert mask_ratio(mask[0].to(torch.uint8)) == 64 / 192
    batch = mask_ratio(torch.stack([mask, 1 - mask]))
    assert isinstance(batch, Tensor)
    torch.testing.assert_close(batch, torch.tensor([1 / 3, 2 / 3]), rtol=0, atol=1e-7)
    lone = mask_ratio(mask[None])
    assert isinstance(lone, Tensor)
    assert lone.shape == (1,)


@pytest.mark.parametrize("size", [(3, 5), (8, 8), (7, 16)])
def test_packing_round_trip(size: tuple[int, int]) -> None:
    masks = (torch.rand(4, 1, *size, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    bits = pack_masks(masks)
    assert bits.shape == (4, -(-size[0] * size[1] // 8))
    assert torch.equal(unpack_masks(bits, size), masks)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.full((1, 4, 4), 0.5), "holds values other than 0"),
        (torch.full((1, 4, 4), torch.nan), "holds values other than 0"),
        (torch.ones(3, 4, 4), r"shape [3, 4, 4] is none of"),
        (torch.ones(4), r"shape [4] is none of"),
    ],
)
def test_no_mask(bad: Tensor, message: str) -> None:
    for use in (mask_ratio, mask_hash):
        with pytest.raises(ValueError, match=re.escape(message)):
            use(bad)


def test_missing_file_says_how_to_draw_one(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    with pytest.raises(FileNotFoundError) as error:
        load_mask(path, 112)
    assert str(error.value) == (
        f"mask {path}: no such file; draw one with "
        f"`python main.py draw-mask --ratio 0.755 0.765 --size 112 --seed 0 --output {path}`"
    )
    with pytest.raises(FileNotFoundError, match=r"freeform_masks\(1, \(112, 96\)\) and save_mask"):
        load_mask(path, (112, 96))
    with pytest.raises(ValueError, match="is a folder"):
        load_mask(tmp_path)


def test_undecodable_files(mask: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    save_mask((torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0)) < 0.5).float(), path)
    for content in (b"", b"no picture", path.read_bytes()[:200]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"mask {re.escape(str(path))} cannot be decoded .*draw-mask"):
            load_mask(path)


def test_refused_pictures(tmp_path: Path) -> None:
    half = np.zeros((8, 6), dtype=np.uint8)
    half[:4] = 255
    path = picture(tmp_path / "m.png", half)
    with pytest.raises(ValueError, match=r"is 8×6, 8×8 is needed \(height×width\): draw one with .*--size 8"):
        load_mask(path, 8)
    picture(path, np.stack([half] * 3, -1))
    with pytest.raises(ValueError, match=r"has 3 channels \(mode RGB\)"):
        load_mask(path)
    picture(path, half // 255)
    with pytest.raises(ValueError, match=r"24 of 48 pixels that are neither 0 nor 255 \(such as 1\)"):
        load_mask(path)
    picture(path, half * 0)
    with pytest.raises(ValueError, match="hides every pixel"):
        load_mask(path)
    picture(path, half * 0 + 255)
    with pytest.raises(ValueError, match="hides no pixel"):
        load_mask(path)
    Image.fromarray(half.astype(np.uint16) * 257).save(path)
    with pytest.raises(ValueError, match=r"has mode I;16"):
        load_mask(path)


def test_one_bit_pngs_are_masks_too(tmp_path: Path) -> None:
    Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path / "m.png")
    assert torch.equal(load_mask(tmp_path / "m.png"), torch.eye(8)[None])


@pytest.mark.parametrize("fails", [0, 1])
def test_a_full_disk_loses_no_earlier_mask(
    mask: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    path = tmp_path / "m.png"
    save_mask(1 - mask, path)
    opened: list[int] = []
    real = os.fdopen

    def full(handle: int, *rest: Any) -> BinaryIO:
        opened.append(handle)
        if len(opened) == fails + 1:
            os.close(handle)
            return open("/dev/full", "wb")
        file: BinaryIO = real(handle, *rest)
        return file

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(OSError, match="No space left"):
        save_mask(mask, path)
    assert torch.equal(load_mask(path), (1 - mask).reshape(1, *mask.shape[-2:]))
    assert json.loads(path.with_suffix(".json").read_text())["mask_hash"] == mask_hash(1 - mask)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("renamed", [0, 1])
def test_a_kill_leaves_no_mask_without_its_facts(
    mask: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool, renamed: int
) -> None:
    path = tmp_path / "m.png"
    if old:
        save_mask(1 - mask, path)
    done: list[str] = []
    replace = os.replace

    def killed(source: str, target: Path) -> None:
        if len(done) == renamed:
            raise KeyboardInterrupt
        done.append(target.name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_mask(mask, path)
    assert done == ["m.json"][:renamed]
    with pytest.raises(FileNotFoundError) as error:
        load_mask(path)
    # the JSON is in draw-mask's way
    assert (" --overwrite" in str(error.value)) == (old or renamed == 1)


def test_save_refuses(mask: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    with pytest.raises(ValueError, match=r"m\.jpg does not end in \.png"):
        save_mask(mask, tmp_path / "m.jpg")
    with pytest.raises(ValueError, match="2 masks do not fit one file"):
        save_mask(torch.stack([mask, mask]), path)
    with pytest.raises(ValueError, match="mask hides every pixel"):
        save_mask(mask * 0, path)
    with pytest.raises(ValueError, match="mask hides no pixel"):
        save_mask(mask * 0 + 1, path)
    with pytest.raises(ValueError, match="mask_ratio, size is measured"):
        save_mask(mask, path, size=3, mask_ratio=0.1)
    with pytest.raises(ValueError, match="JSON cannot hold them"):
        save_mask(mask, path, generator=torch.Generator())
    assert not any(tmp_path.iterdir()), "a refused mask left a file"
