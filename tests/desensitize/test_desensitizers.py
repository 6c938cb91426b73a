from __future__ import annotations

import json
import math
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import CentreBlock, CentreBlur, Desensitizer, GaussianBlur, Identity, Mosaic
from lightning_app.masks import mask_hash

Faces = Callable[..., Batch]
Picture = npt.NDArray[np.float32]

ALL: list[Callable[[], Desensitizer]] = [
    Identity,
    GaussianBlur,
    lambda: GaussianBlur(18),
    Mosaic,
    lambda: Mosaic(16),
    CentreBlock,
    CentreBlur,
]


def pictures(batch: Batch) -> list[Picture]:
    return [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in batch["image"]]


@pytest.mark.parametrize("make", ALL)
def test_the_contract(make: Callable[[], Desensitizer], batch: Batch) -> None:
    desensitizer = make()
    before = batch["image"].clone()
    out = desensitizer(batch, DrawKey(step=3))
    assert torch.equal(batch["image"], before), "changed its input"
    assert out["image"].shape == before.shape
    assert out["image"].dtype == torch.float32
    assert float(out["image"].min()) >= 0
    assert float(out["image"].max()) <= 1
    assert out["mask_index"].tolist() == [0] * 4
    assert out["mask_index"].dtype == torch.int64
    assert (out["mask"] is None) == (not isinstance(desensitizer, CentreBlock))
    assert all(out[key] is batch[key] for key in ("identity", "index", "bad"))
    assert desensitizer.hides == (not torch.equal(out["image"], before))
    description = desensitizer.describe()
    assert description["method"] == type(desensitizer).__name__
    assert json.loads(json.dumps(description)) == description
    assert torch.equal(desensitizer.desensitize(before), out["image"])


@pytest.mark.parametrize("make", ALL)
def test_an_image_does_not_depend_on_its_batch(make: Callable[[], Desensitizer], faces: Faces) -> None:
    together = make()(faces(index=(4, 9, 2)))
    alone = make()(faces(index=(9,)))
    assert torch.equal(alone["image"][0], together["image"][1])


@pytest.mark.parametrize(("kernel", "sigma"), [(3, None), (9, None), (9, 3.5), (15, None), (31, 6.0)])
def test_blur_against_opencv(faces: Faces, kernel: int, sigma: float | None) -> None:
    batch = faces(size=(37, 50))
    out = GaussianBlur(kernel, sigma)(batch)["image"]
    # OpenCV takes fixed tables for small kernels when it is left to find sigma: give it the rule's value
    given = sigma or 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    for found, picture in zip(out, pictures(batch), strict=True):
        expected = cv2.GaussianBlur(picture, (kernel, kernel), given, borderType=cv2.BORDER_REFLECT_101)
        np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), expected, rtol=0, atol=1e-5)


def test_even_kernel_keeps_its_sigma_and_its_place() -> None:
    spot = torch.zeros(1, 3, 41, 41)
    spot[..., 20, 20] = 1
    desensitizer = GaussianBlur(18)
    out = desensitizer.desensitize(spot)[0, 0]
    assert desensitizer.describe() == {
        "method": "GaussianBlur",
        "kernel": 18,
        "taps": 19,
        "sigma": pytest.approx(3.05),
    }
    torch.testing.assert_close(out, out.flip(0), rtol=0, atol=0)
    torch.testing.assert_close(out, out.flip(1), rtol=0, atol=0)
    assert out[20, 11] > 0
    assert out[20, 10] == 0
    assert float(out[20, 21] / out[20, 20]) == pytest.approx(math.exp(-0.5 / 3.05**2), abs=1e-6)
    assert float(out.sum()) == pytest.approx(1, abs=1e-5)


def test_blur_is_fp32_under_autocast(batch: Batch) -> None:
    plain = GaussianBlur()(batch)["image"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(GaussianBlur()(batch)["image"], plain)
        assert torch.equal(Mosaic()(batch)["image"], Mosaic()(batch)["image"].float())
    half = batch.copy()
    half["image"] = batch["image"].to(torch.bfloat16)
    assert GaussianBlur()(half)["image"].dtype == torch.float32


@pytest.mark.parametrize("block", [2, 7, 8, 16, 64])
def test_mosaic_against_a_loop(faces: Faces, block: int) -> None:
    batch = faces(size=(37, 24))  # ragged for most blocks, and smaller than the largest
    out = Mosaic(block)(batch)["image"]
    for found, picture in zip(out, pictures(batch), strict=True):
        expected = picture.copy()
        for top in range(0, 37, block):
            for left in range(0, 24, block):
                square = picture[top : top + block, left : left + block]
                expected[top : top + block, left : left + block] = square.astype(np.float64).mean((0, 1))
        # fp32 sums of up to 1536 values, in an order that hangs on the CPU
        np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_block_larger_than_the_image_takes_no_more_memory(faces: Faces) -> None:
    batch = faces(size=(37, 24))
    huge = Mosaic(2**40)(batch)["image"]  # repeated that often, its one colour would fill any memory
    torch.testing.assert_close(huge, batch["image"].mean((-2, -1), keepdim=True).expand(huge.shape))


def test_centre_block_against_slicing(faces: Faces) -> None:
    batch = faces(size=(24, 20))
    desensitizer = CentreBlock()
    out = desensitizer(batch)
    expected = batch["image"].clone()
    expected[:, :, 6:18, 5:15] = 0
    assert torch.equal(out["image"], expected)
    mask = torch.ones(1, 1, 24, 20)
    mask[..., 6:18, 5:15] = 0
    assert torch.equal(out["mask"], mask)
    description = {
        "method": "CentreBlock",
        "fraction": 0.5,
        "size": [24, 20],
        "mask_hash": mask_hash(mask),
        "mask_ratio": 0.25,
    }
    assert desensitizer.describe() == description
    noisy = batch.copy()
    noisy["image"] = batch["image"].clone()
    noisy["image"][:, :, 6:18, 5:15] = 0.7
    assert torch.equal(desensitizer(noisy)["image"], out["image"])
    other = desensitizer(
        faces(size=(11, 11))
    )  # 6 of 11 pixels, rounded to even from 5.5; rows and columns 2 to 7
    assert other["mask"][0, 0].sum(1).tolist() == [11, 11, *[5] * 6, 11, 11, 11]
    assert not desensitizer.state_dict()


def test_centre_blur_blurs_the_centre_alone(faces: Faces) -> None:
    batch = faces(size=(24, 20))
    out = CentreBlur(0.5, kernel=9)(batch)["image"]
    expected = batch["image"].clone()
    expected[:, :, 6:18, 5:15] = GaussianBlur(9)(batch)["image"][:, :, 6:18, 5:15]
    assert torch.equal(out, expected)
    description = CentreBlur(0.25, 9, 2.0).describe()
    assert description == {"method": "CentreBlur", "kernel": 9, "taps": 9, "sigma": 2.0, "fraction": 0.25}


def test_identity_returns_the_images_themselves(batch: Batch) -> None:
    assert Identity()(batch)["image"] is batch["image"]
    assert not Identity().hides


def test_errors(faces: Faces) -> None:
    for kernel in (1, 0, -9):
        with pytest.raises(ValueError, match=f"kernel: {kernel} blurs nothing"):
            GaussianBlur(kernel)
    with pytest.raises(ValueError, match=r"sigma: 0\.0 is not"):
        GaussianBlur(9, 0.0)
    for sigma in (0.01, 0.49, 1e-300, 5e-324):
        with pytest.raises(
            ValueError, match=f"sigma: {sigma} blurs next to nothing; take 0.5 pixels or more"
        ):
            GaussianBlur(9, sigma)
        with pytest.raises(ValueError, match=f"sigma: {sigma} blurs next to nothing"):
            CentreBlur(0.5, 9, sigma)
    for sigma in (math.nan, math.inf, -1.0, 1e200):
        with pytest.raises(ValueError, match=r"sigma: .* is not a positive number of pixels up to 32768"):
            GaussianBlur(9, sigma)
    for kernel in (10**9, 2**62, 32769):
        with pytest.raises(
            ValueError, match=f"kernel: {kernel} is wider than any image; take 32768 pixels at"
        ):
            GaussianBlur(kernel)
    with pytest.raises(
        ValueError, match="kernel: 19 taps are too wide for images of 9×12; they need 10 pixels a side"
    ):
        GaussianBlur(18)(faces(size=(9, 12)))
    with pytest.raises(ValueError, match="block: 1 changes nothing"):
        Mosaic(1)
    for fraction in (0.0, 1.0, 50.0):
        with pytest.raises(ValueError, match=rf"fraction: {fraction} is not in \(0, 1\)"):
            CentreBlock(fraction)
        with pytest.raises(ValueError, match=rf"fraction: {fraction} is not in \(0, 1\)"):
            CentreBlur(fraction)
