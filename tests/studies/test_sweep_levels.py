from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cosine_similarity

from datamodules.verification.readers import PairFaces
from lightning_app.masks import MaskLevels, freeform_masks, save_mask
from lightning_app.models import ResNet
from lightning_app.studies.sweep import Faces
from lightning_app.studies.sweep_levels import cells_of, members

LEVELS = [(0.1, 0.3), (0.3, 0.5)]


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> MaskLevels:
    """Six masks in each of two levels."""
    home = tmp_path_factory.mktemp("masks")
    for low, high in LEVELS:
        generator = torch.Generator().manual_seed(0)
        for number, mask in enumerate(freeform_masks(6, 32, (low + 0.02, high - 0.02), generator=generator)):
            save_mask(mask, home / f"{low}" / f"{number}.png")
    return MaskLevels(home, 32, LEVELS, "black")


def test_every_image_draws_a_mask_of_the_level(bank: MaskLevels) -> None:
    drawn = {
        (cell["level"], cell["repeat"]): numbers
        for cell, numbers in cells_of("a", "", bank, LEVELS, 600, 2, 0, seed=3)
        if numbers is not None
    }
    for (level, _), numbers in drawn.items():
        inside = members(bank, LEVELS[level != "0.1-0.3"])
        assert len(inside) == 6
        assert torch.isin(numbers, inside).all()
        assert torch.bincount(numbers, minlength=12)[inside].min() > 60, "about 100 of 600 each"
    assert not torch.equal(drawn["0.1-0.3", 0], drawn["0.1-0.3", 1])
    for other, seed, same in (("b", 3, True), ("a", 4, False)):
        _, *rest = cells_of(other, "", bank, LEVELS, 600, 2, 0, seed)
        assert rest[0][1] is not None
        assert torch.equal(rest[0][1], drawn["0.1-0.3", 0]) is same, "a draw is the same for all recognisers"
    few, many = (
        {cell["mask"] for cell, _ in cells_of("a", "", bank, LEVELS, 1, 1, n, seed=0)} for n in (3, 8)
    )
    assert (len(few), len(many), few < many) == (
        4,
        9,
        True,
    )  # and the empty name of those that are not single


def test_bf16_autocast_reaches_the_model(bank: MaskLevels, drawn_root: Path) -> None:
    torch.manual_seed(0)
    model = ResNet(backbone="resnet18", width=8, num_classes=3, input_size=32).eval()
    reader = PairFaces(drawn_root, crop=44, size=32)
    full, half = (
        Faces(reader, bank, 0.5, 0.5, 20, precision, 0, torch.device("cpu")).embed(
            model, None, lambda n: None
        )
        for precision in ("32-true", "bf16-mixed")
    )
    assert full.dtype == half.dtype == torch.float32
    assert not torch.equal(full, half)
    assert cosine_similarity(full, half).min() > 0.999
