from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.morphology import erosion
from torch import Tensor

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import MaskOut
from lightning_app.masks import freeform_masks, guarded, mask_hash, mask_ratio, save_mask
from lightning_app.masks.guard import has_margin


def dotted(size: int, count: int = 1) -> Tensor:
    """Free-form masks `[N,1,H,W]`."""
    return freeform_masks(count, size, (0.3, 0.4), generator=torch.Generator().manual_seed(3))


def faces(size: int, count: int = 4) -> Batch:
    image = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return Batch(image=image, index=torch.arange(count))


@pytest.mark.parametrize("guard", [1, 2, 5])
def test_against_an_erosion(guard: int) -> None:
    masks = dotted(40, 3)
    found = guarded(masks, guard)
    for mask, narrowed in zip(masks, found, strict=True):
        # skimage erodes as if everything beyond the image were visible, too
        expected = erosion(mask[0].numpy(), np.ones((2 * guard + 1, 2 * guard + 1)))
        np.testing.assert_array_equal(narrowed[0].numpy(), expected)
    assert torch.equal(guarded(masks[0], guard), found[0])
    assert torch.equal(guarded(masks[0, 0], guard), found[0, 0])


def test_a_square_and_not_a_disc() -> None:
    mask = torch.ones(1, 9, 9)
    mask[0, 4, 4] = 0
    expected = torch.ones(1, 9, 9)
    expected[0, 2:7, 2:7] = 0
    assert torch.equal(guarded(mask, 2), expected)
    assert torch.equal(guarded(mask, 0), mask)
    assert not guarded(mask, 10**9).any()
    with pytest.raises(ValueError, match="guard: -1 is below 0"):
        guarded(mask, -1)


@pytest.mark.parametrize("guard", [0, 1, 2, 5])
def test_a_margin_is_seen_in_the_mask(guard: int) -> None:
    for mask in dotted(40, 4):
        assert has_margin(guarded(mask, guard), guard)
        assert has_margin(guarded(mask, guard + 1), guard), "a wider one holds a narrower one"
    one = torch.ones(1, 20, 20)
    one[0, 7, 7] = 0
    assert has_margin(guarded(one, guard), guard)
    assert not has_margin(guarded(one, guard), guard + 1), "a square of one pixel less"
    corner = torch.ones(20, 20)
    corner[:3, :3] = 0
    assert has_margin(corner, 2), "what lies beyond the edge may be hidden"
    assert not has_margin(corner, 3)
    assert has_margin(guarded(dotted(40, 4), 2), 2)


def test_the_guarded_mask_is_the_mask(tmp_path: Path) -> None:
    mask = dotted(40)[0]
    save_mask(mask, tmp_path / "mask.png")
    desensitizer = MaskOut(mask=tmp_path / "mask.png", guard=2)
    batch = faces(40)
    out = desensitizer(batch, DrawKey())
    narrowed = guarded(mask, 2)
    assert out["mask"] is not None
    assert torch.equal(out["mask"], narrowed[None])
    assert torch.equal(out["image"], batch["image"] * narrowed)
    description = desensitizer.describe()
    assert (description["guard"], description["mask_hash"]) == (2, mask_hash(narrowed))
    assert description["mask_ratio"] == mask_ratio(narrowed)
    assert "guard" not in MaskOut(mask=tmp_path / "mask.png").describe()
    assert torch.equal(MaskOut(mask=tmp_path / "mask.png", guard=0)(batch)["image"], batch["image"] * mask)


def test_many_masks(tmp_path: Path) -> None:
    for number, mask in enumerate(dotted(40, 5)):
        save_mask(mask, tmp_path / "masks" / f"{number}.png")
    plain = MaskOut(folder=tmp_path / "masks", hidden="black", size=40)
    narrow = MaskOut(folder=tmp_path / "masks", hidden="black", size=40, guard=1)
    batch = faces(40, 6)
    expected = plain(batch)
    assert expected["mask"] is not None
    assert torch.equal(narrow(batch)["mask"], guarded(expected["mask"], 1))
    drawn = (
        MaskOut(freeform=(0.3, 0.4), count=300, size=40),
        MaskOut(freeform=(0.3, 0.4), count=300, size=40, guard=3),
    )
    masks = [desensitizer(faces(40, 2))["mask"] for desensitizer in drawn]
    assert masks[0] is not None
    assert torch.equal(masks[1], guarded(masks[0], 3))


def test_a_guard_that_hides_much_more_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mask = torch.ones(1, 40, 40)
    mask[:, 10:30, 10:30] = 0  # with 2 px more 24² of 1600
    save_mask(mask, tmp_path / "mask.png")
    with caplog.at_level(logging.WARNING, "faceveil"):
        MaskOut(mask=tmp_path / "mask.png")
        MaskOut(mask=tmp_path / "mask.png", guard=2)
    (line,) = caplog.messages
    assert "guard: 2 more pixels hidden raise the mask ratio from 0.250 to 0.360." in line
    caplog.clear()
    save_mask(torch.cat([torch.zeros(1, 10, 40), torch.ones(1, 30, 40)], 1), tmp_path / "mask.png")
    with caplog.at_level(logging.WARNING, "faceveil"):
        MaskOut(mask=tmp_path / "mask.png", guard=1)  # 0.25 to 0.275
    assert not caplog.messages


def test_nothing_left_names_the_guard(tmp_path: Path) -> None:
    save_mask(dotted(40)[0], tmp_path / "mask.png")
    with pytest.raises(
        ValueError, match=r"guard: with 30 more pixels hidden, .*mask\.png leaves no pixel visible"
    ):
        MaskOut(mask=tmp_path / "mask.png", guard=30)
    with pytest.raises(
        ValueError, match=r"guard: with 30 more pixels hidden, 7 of 7 masks of freeform leave"
    ):
        MaskOut(freeform=(0.3, 0.4), count=7, size=40, guard=30)
    with pytest.raises(ValueError, match="guard: -2 is below 0"):
        MaskOut(mask=tmp_path / "mask.png", guard=-2)
