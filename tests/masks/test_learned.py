"""Exactly K pixels whatever the scores; masks that grow without looking; codes that no single face stands behind."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_app.masks.learned import (
    Growth,
    bits_of_choice,
    codebook_of,
    core_mask,
    grown,
    masker_input,
    shown_pixels,
    soft_mask,
    top_mask,
)


@pytest.mark.parametrize("size", [(1, 2), (3, 5), (7, 7), (16, 12)])
def test_exactly_k_for_every_k(size: tuple[int, int]) -> None:
    height, width = size
    draw = torch.Generator().manual_seed(2)
    scores = torch.randn(4, 1, height, width, generator=draw)
    scores[1] = scores[1].round()  # many ties
    scores[2] = 0.5  # all equal
    for count in range(height * width + 1):
        mask = top_mask(scores, count)
        assert mask.flatten(1).sum(1).tolist() == [count] * 4
        assert set(mask.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("values", [
    [float("nan")] * 6, [float("inf")] * 6, [-float("inf")] * 6, [0.0, -0.0, 0.0, -0.0, 0.0, 0.0],
    [float("nan"), 1.0, float("nan"), -float("inf"), float("inf"), 2.0],
])  # fmt: skip
def test_exactly_k_of_odd_scores(values: list[float]) -> None:
    for count in range(7):
        assert int(top_mask(torch.tensor(values).view(1, 1, 2, 3), count).sum()) == count
    assert top_mask(torch.tensor(values).view(1, 1, 2, 3), 6).all()


def test_against_a_stable_sort() -> None:
    scores = torch.randint(0, 9, (5, 1, 11, 13), generator=torch.Generator().manual_seed(4)).float()
    for count in (1, 20, 71, 142):
        for one, mask in zip(scores, top_mask(scores, count), strict=True):
            expected = np.zeros(11 * 13)
            expected[np.argsort(-one.flatten().numpy(), kind="stable")[:count]] = 1
            assert mask.flatten().tolist() == expected.tolist(), "of ties the first pixels"


def test_a_batch_of_one() -> None:
    scores = torch.randn(64, 1, 9, 9).round(decimals=1)
    together = top_mask(scores, 20)
    assert all(torch.equal(together[i : i + 1], top_mask(scores[i : i + 1], 20)) for i in range(64))


def test_scores_of_less_than_fp32_and_none() -> None:
    assert int(top_mask(torch.zeros(1, 1, 4, 4, dtype=torch.bfloat16), 5).sum()) == 5
    assert top_mask(torch.zeros(0, 1, 4, 4), 5).shape == (0, 1, 4, 4)
    with pytest.raises(ValueError, match="count=17: an image has 16 pixels"):
        top_mask(torch.zeros(1, 1, 4, 4), 17)


def test_how_many_are_shown() -> None:
    assert shown_pixels(0.29, 10) == 29, "29.000000000000004 and 28.999999999999996 are both 29"
    for share in (0.01, 0.24, 0.25, 1 / 3, 0.99):
        for size in (2, 7, 112):
            shown = shown_pixels(share, size)
            assert 1 <= shown < size * size
            assert shown <= max(share * size * size + 1e-6, 1)
    for share in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="give the share of pixels that stay visible"):
            shown_pixels(share, 8)
    with pytest.raises(ValueError, match="no pixel to hide"):
        shown_pixels(0.5, 1)


def test_the_core_lies_around_the_centre() -> None:
    core = core_mask(9, (9, 9))[0, 0]
    assert core[3:6, 3:6].all()
    assert int(core.sum()) == 9
    for count in (1, 5, 30):
        assert int(core_mask(count, (8, 11)).sum()) == count


@pytest.mark.parametrize("growth", [Growth(1, 0.0), Growth(3, 0.25), Growth(5, 0.9), Growth(40, 0.1)])
def test_growing_shows_exactly_k_and_looks_at_nothing_else(growth: Growth) -> None:
    looked: list[Tensor] = []
    weights = torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(5))

    def network(seen: Tensor) -> Tensor:
        looked.append(seen)
        return torch.nn.functional.conv2d(seen, weights, padding=2)

    draw = torch.Generator().manual_seed(6)
    image = torch.rand(8, 3, 12, 12, generator=draw)
    mask, rounds = grown(network, image, 36, growth)
    assert mask.flatten(1).sum(1).tolist() == [36] * 8
    assert len(rounds) == len(looked) == growth.rounds
    before = core_mask(growth.counts(36)[0], (12, 12)).expand(8, -1, -1, -1)
    for seen, (_, added) in zip(looked, rounds, strict=True):
        assert torch.equal(seen, ((image - 0.5) / 0.5) * before)
        assert not (before * added).any(), "shown twice"
        before = before + added
    assert torch.equal(before, mask)
    noise = torch.rand(image.shape, generator=draw)
    again, _ = grown(network, torch.where(mask == 1, image, noise), 36, growth)
    assert torch.equal(again, mask)


def test_growing_with_odd_scores() -> None:
    for value in (float("nan"), -float("inf"), 0.0):
        mask, _ = grown(lambda x, v=value: torch.full_like(x[:, :1], v), torch.rand(2, 3, 6, 6), 9, Growth(2))  # type: ignore[misc]
        assert mask.flatten(1).sum(1).tolist() == [9, 9]


def test_what_a_masker_looks_at() -> None:
    image = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)
    assert masker_input(image).flatten().tolist() == [-1, 0, 1]
    assert masker_input(image, torch.zeros(1, 1, 1, 1)).abs().flatten().tolist() == [0, 0, 0]
    assert masker_input(torch.arange(256).view(256, 1, 1, 1) / 255).ne(0).all(), "0 stands for hidden alone"


def test_soft_masks() -> None:
    logits, mask = torch.tensor([[[[0.0, 2.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    torch.testing.assert_close(soft_mask(mask, [(logits, mask)]), logits.sigmoid())
    torch.testing.assert_close(
        soft_mask(mask, [(logits, mask)] * 2), torch.tensor([[[[1.0, 1 / (1 + math.exp(-2))]]]])
    )


@pytest.mark.parametrize(("setting", "message"), [
    ({"rounds": -1}, "rounds=-1: give 0 to 64"), ({"rounds": 65}, "rounds=65: give 0 to 64"),
    ({"core": 1.0}, "core=1.0: give a share"),
])  # fmt: skip
def test_what_growth_refuses(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Growth(**setting)  # type: ignore[arg-type]


def test_bits_of_a_free_choice() -> None:
    assert bits_of_choice(10, 3) == pytest.approx(math.log2(math.comb(10, 3)), rel=1e-9)
    assert round(bits_of_choice(12544, 3136)) == 10170  # findings on paper 3


def test_codes_are_means_of_their_faces() -> None:
    draw = torch.Generator().manual_seed(7)
    kinds = torch.rand(3, 8, 8, generator=draw)
    which = torch.arange(60) % 3
    maps = kinds[which] + 0.01 * torch.rand(60, 8, 8, generator=draw)
    codes = codebook_of(maps, 3)
    expected = torch.stack([maps[which == one].mean(0) for one in range(3)])
    found = codes[torch.cdist(expected.flatten(1), codes.flatten(1)).argmin(1)]
    torch.testing.assert_close(found, expected)
    assert torch.equal(codes, codebook_of(maps, 3))


def test_no_code_is_nearly_one_face() -> None:
    draw = torch.Generator().manual_seed(8)
    maps = 0.1 * torch.rand(40, 8, 8, generator=draw)
    maps[::13] += 5 * torch.rand(4, 8, 8, generator=draw)  # faces unlike all others
    codes = codebook_of(maps, 8)
    assert 1 <= len(codes) <= 8
    odd = maps[::13].flatten(1)
    assert float(torch.cdist(odd, codes.flatten(1)).min()) > 1
    assert len(codebook_of(maps[:4], 16)) == 1
