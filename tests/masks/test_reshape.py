"""`reshaped` and `draw-mask --like`: the asked mask ratio and shape, whatever the mask was."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_app.commands.draw_mask import run
from lightning_app.masks import freeform_masks, load_mask, mask_hash, mask_ratio, save_mask
from lightning_app.masks.reshape import reshaped

RATIO = (0.755, 0.765)


@pytest.fixture(scope="module")
def dotted() -> Tensor:
    """Many strokes and holes, as searched masks have them."""
    drawn = freeform_masks(2, 64, (0.74, 0.78), generator=torch.Generator().manual_seed(0))
    dots = (torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(1)) > 0.9).float()
    return torch.maximum(drawn[0], dots)


def pieces(mask: Tensor, visible: bool) -> int:
    shape = mask[0].numpy().astype(np.uint8)
    return cv2.connectedComponents(shape if visible else 1 - shape, connectivity=8 if visible else 4)[0] - 1


@pytest.mark.parametrize("smooth", [0.0, 2.0, 4.0])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("hole_free", [False, True])
def test_it_has_the_asked_ratio_and_shape(
    dotted: Tensor, smooth: float, symmetric: bool, hole_free: bool
) -> None:
    found = reshaped(dotted, RATIO, smooth, symmetric, hole_free)
    assert found.shape == (1, 64, 64)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert RATIO[0] <= mask_ratio(found) <= RATIO[1]
    assert not symmetric or torch.equal(found, found.flip(-1))
    if hole_free:
        count, labels = cv2.connectedComponents((1 - found[0]).numpy().astype(np.uint8), connectivity=4)
        edge = {*labels[0], *labels[-1], *labels[:, 0], *labels[:, -1]}
        assert set(range(1, count)) <= edge, "a hidden part is enclosed"
        areas = cv2.connectedComponentsWithStats(found[0].numpy().astype(np.uint8), connectivity=8)[2][1:, -1]
        assert min(areas) >= 0.002 * 64 * 64
    assert torch.equal(found, reshaped(dotted, RATIO, smooth, symmetric, hole_free))


def test_a_larger_blur_leaves_fewer_parts_and_keeps_what_was_most_visible(dotted: Tensor) -> None:
    counts = [
        pieces(reshaped(dotted, RATIO, smooth), True) + pieces(reshaped(dotted, RATIO, smooth), False)
        for smooth in (0.0, 1.0, 3.0, 6.0)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < counts[0]
    box = torch.zeros(1, 64, 64)
    box[:, 16:48, 16:48] = 1  # hides 75 %
    same = reshaped(box, (0.745, 0.755))
    assert float((same - box).abs().mean()) < 0.01


def test_the_command_writes_it_with_its_facts(
    dotted: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_mask(dotted, tmp_path / "searched.png")
    given = ["--like", str(tmp_path / "searched.png"), "--size", "64", "--ratio", "0.755", "0.765"]
    run([*given, "--output", str(tmp_path / "made.png"), "--smooth", "2", "--symmetric", "--hole-free"])
    assert "like " + mask_hash(dotted)[:12] in capsys.readouterr().out.replace("\n", " ")
    made = load_mask(tmp_path / "made.png", 64)
    assert torch.equal(made, reshaped(dotted, RATIO, 2, True, True))
    facts = json.loads((tmp_path / "made.json").read_text())
    assert (facts["method"], facts["like"], facts["smooth"]) == ("reshaped", mask_hash(dotted), 2.0)
    assert (facts["symmetric"], facts["hole_free"]) == (True, True)


def test_what_is_refused(dotted: Tensor, tmp_path: Path) -> None:
    save_mask(dotted, tmp_path / "a.png")
    output = ["--output", str(tmp_path / "b.png"), "--size", "64"]
    with pytest.raises(ValueError, match="are of a mask given by --like"):
        run([*output, "--smooth", "2"])
    with pytest.raises(ValueError, match="like and rectangle: give one of them"):
        run([*output, "--like", str(tmp_path / "a.png"), "--rectangle", "0", "0", "9", "9"])
    with pytest.raises(
        ValueError,
        match=r"ratio: \[0\.50001, 0\.50002\] cannot be had of this mask so, the closest is 0\.\d+",
    ):
        reshaped(dotted, (0.50001, 0.50002), 3, True)
    with pytest.raises(ValueError, match="smooth: -1 is no number of pixels"):
        reshaped(dotted, RATIO, -1)
    assert not (tmp_path / "b.png").exists()
