"""The block DCT against scipy and against the field's way: enlarge, unfold, multiply."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from torch import Tensor
from torch.nn import functional as F

from lightning_app.desensitize.dct import (
    Blocks,
    block_dct,
    dct_matrix,
    from_ycbcr,
    grey,
    inverse_block_dct,
    ycbcr,
    zigzag,
)


def planes(size: int | tuple[int, int] = 24, count: int = 1) -> Tensor:
    height, width = (size, size) if isinstance(size, int) else size
    return torch.rand(3, count, height, width, generator=torch.Generator().manual_seed(0))


def fields_way(image: Tensor, blocks: Blocks) -> Tensor:
    """What public code does, in fp64: a large image, its blocks, their DCT."""
    large = image.double()
    if blocks.upsample > 1:
        large = F.interpolate(
            large, scale_factor=blocks.upsample, mode="bilinear", align_corners=blocks.align_corners
        )
    matrix = torch.kron(dct_matrix(blocks.block), dct_matrix(blocks.block))
    side = [(length - blocks.block) // blocks.stride + 1 for length in large.shape[-2:]]
    cut = F.unfold(large, blocks.block, stride=blocks.stride).unflatten(1, (image.shape[1], -1))
    found: Tensor = (matrix @ cut).flatten(1, 2)
    unfolded: Tensor = found.unflatten(-1, side)
    return unfolded


WAYS = [
    Blocks(), Blocks(align_corners=False), Blocks(upsample=1), Blocks(upsample=1, stride=1), Blocks(4, 1, 2),
    Blocks(4, 4, 4), Blocks(8, 4, 8), Blocks(8, 2, 4, align_corners=False),
]  # fmt: skip


@pytest.mark.parametrize("upsample", [1, 8])
def test_every_block_is_scipys(upsample: int) -> None:
    image = planes(16)
    found = block_dct(image, Blocks(upsample=upsample)).numpy()
    large = (
        image if upsample == 1 else F.interpolate(image, scale_factor=8, mode="bilinear", align_corners=True)
    )
    for y in range(found.shape[2]):
        for x in range(found.shape[3]):
            block = large[:, 0, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].double().numpy()
            expected = dctn(block, norm="ortho", axes=(1, 2)).reshape(3, 64)
            np.testing.assert_allclose(found[:, :, y, x], expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("blocks", WAYS, ids=str)
@pytest.mark.parametrize("size", [(16, 24), (24, 24)])
def test_it_is_what_public_code_does(blocks: Blocks, size: tuple[int, int]) -> None:
    image = planes(size, 2)
    found = block_dct(image, blocks)
    torch.testing.assert_close(found.double(), fields_way(image, blocks), rtol=0, atol=1e-5)
    some = [3, 9, 10, blocks.block**2 + 1, blocks.block**2 + 14]
    assert torch.equal(block_dct(image, blocks, some), found[:, some])


@pytest.mark.parametrize("blocks", WAYS, ids=str)
def test_the_inverse_gives_the_image_back(blocks: Blocks) -> None:
    image = planes(24, 2)
    again = inverse_block_dct(block_dct(image, blocks), blocks, range(2 * blocks.block**2), 2)
    torch.testing.assert_close(again, image, rtol=0, atol=1e-5)


def test_without_the_corners_in_place_a_frequency_of_four_carries_nothing() -> None:
    assert Blocks(align_corners=False).dead == [4]
    found = block_dct(planes(), Blocks(align_corners=False)).unflatten(1, (8, 8))
    assert float(found[:, 4].abs().max()) < 1e-6
    assert float(found[:, :, 4].abs().max()) < 1e-6
    for alive in (Blocks(), Blocks(upsample=1), Blocks(upsample=1, stride=1)):
        assert alive.dead == []


def distinct(channels: Tensor) -> int:
    """How many maps differ by more than their sign, each brought to length 1: `[C,h,w]`."""
    flat = channels.flatten(1).double()
    flat = flat - flat.mean(1, keepdim=True)
    unit = F.normalize(flat, dim=1)
    alike = (unit @ unit.T).abs() > 1 - 1e-6
    return int((alike.float().argmax(1) == torch.arange(len(unit))).sum())


def test_how_many_maps_differ() -> None:
    image = planes(24)[:1].double()
    keep = [k for k in range(1, 64) if 4 not in divmod(k, 8)]
    assert distinct(block_dct(image, Blocks(), range(1, 64))[0]) == 63
    assert distinct(block_dct(image, Blocks(align_corners=False), keep)[0]) == 8


@pytest.mark.parametrize(
    ("size", "blocks"), [(20, Blocks(upsample=1)), (4, Blocks(upsample=1)), (9, Blocks(8, 1, 2))]
)
def test_a_side_that_blocks_do_not_fill(size: int, blocks: Blocks) -> None:
    with pytest.raises(ValueError, match=rf"do not fill a side of {size} pixels: give images whose side"):
        block_dct(planes(size), blocks)
    assert blocks.size(blocks.count(32)) == 32


def test_what_cannot_fit_is_not_advised() -> None:
    """A stride that does not divide the block leaves blocks over whatever multiple of the block a side is."""
    with pytest.raises(
        ValueError, match=r"do not fill a side of 32 pixels: give a stride that fits \(1 always does\)"
    ):
        Blocks(8, 1, 5).count(32)


def test_no_image_has_so_many_blocks() -> None:
    with pytest.raises(ValueError, match="2 blocks a side: no image has so many"):
        Blocks(8, 8, 4).size(2)


def test_precision_settings_do_not_count() -> None:
    image = planes()
    exact = block_dct(image, Blocks())
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(block_dct(image, Blocks()), exact)
            assert torch.equal(
                inverse_block_dct(exact, Blocks(), range(64)), inverse_block_dct(exact, Blocks(), range(64))
            )
            sliding = block_dct(image, Blocks(upsample=1, stride=1))
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(sliding, block_dct(image, Blocks(upsample=1, stride=1)))


def test_colours() -> None:
    image = planes(count=3)
    assert torch.equal(grey(image[:, :1].expand(-1, 3, -1, -1)), image[:, :1]), (
        "grey images stay what they are"
    )
    torch.testing.assert_close(from_ycbcr(ycbcr(image)), image, rtol=0, atol=1e-6)
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    expected = [0.299, -0.299 / 1.772, 0.701 / 1.402]
    torch.testing.assert_close(ycbcr(red).flatten(), torch.tensor(expected))


def test_zigzag_is_jpegs() -> None:
    assert zigzag(8)[:10] == [0, 1, 8, 16, 9, 2, 3, 10, 17, 24]
    assert sorted(zigzag(8)) == list(range(64))


def test_the_matrix_is_orthonormal() -> None:
    matrix = dct_matrix(8)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(8, dtype=torch.float64))
    assert math.isclose(float(matrix[0, 0]), 8**-0.5)
