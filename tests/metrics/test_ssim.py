from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import skimage.metrics
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from lightning_app.metrics import dssim, psnr, ssim, ssim_map

Images = tuple[Tensor, Tensor]
skimage_metrics: Any = skimage.metrics  # its functions are untyped


def reference(a: Tensor, b: Tensor) -> Tensor:
    found = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
    assert isinstance(found, Tensor)
    return found.reshape(-1)


def test_ssim_agrees_with_torchmetrics(images: Images) -> None:
    assert (ssim(*images) - reference(*images)).abs().max() <= 1e-5
    assert (dssim(*images) - (1 - reference(*images))).abs().max() <= 1e-5


@pytest.mark.parametrize("shape", [(2, 3, 6, 6), (1, 1, 6, 31), (3, 2, 224, 17), (1, 2, 400, 400)])
def test_ssim_agrees_with_torchmetrics_at_any_size(shape: tuple[int, ...]) -> None:
    # 400 px: one plane is more than a chunk; 6 px: the smallest that can be reflected
    a, b = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    assert ssim(a, b).shape == shape[:1]
    assert (ssim(a, b) - reference(a, b)).abs().max() <= 1e-5


def test_ssim_keeps_its_digits_on_bright_flat_images() -> None:
    # E[x²] − E[x]² in fp32 costs torchmetrics 4e-5 to 2.5e-4 here: its double precision is the reference
    noise = torch.randn(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for strength in (1e-3, 1e-4):
        a, b = 0.9 + strength * noise
        assert (ssim(a, b) - reference(a.double(), b.double())).abs().max() <= 1e-6
        hidden = b.clone()
        hidden[..., 20:40, 20:40] = 0
        _, wanted = structural_similarity_index_measure(
            a.double(), hidden.double(), data_range=1.0, reduction="none", return_full_image=True
        )
        assert (ssim_map(a, hidden) - wanted).abs().max() <= 5e-5


def test_ssim_map_agrees_with_skimage_inside(images: Images) -> None:
    found = ssim_map(*images)
    assert found.shape == images[0].shape
    for a, b, ours in zip(*images, found, strict=True):
        _, wanted = skimage_metrics.structural_similarity(
            a.double().numpy(),
            b.double().numpy(),
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            full=True,
        )
        # skimage mirrors the border with the edge pixel doubled, so only the interior compares
        difference = np.abs(ours.numpy() - wanted)[:, 5:-5, 5:-5]
        assert difference.max() <= 1e-5


def test_ssim_is_the_mean_of_its_map(images: Images) -> None:
    torch.testing.assert_close(ssim(*images), ssim_map(*images).mean((1, 2, 3)), atol=1e-6, rtol=0)


def test_dssim_of_equal_images_is_exactly_zero(images: Images) -> None:
    assert (dssim(images[0], images[0]) == 0).all()
    assert (ssim(images[0], images[0]) == 1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_figures_are_fp32_inside(images: Images, dtype: torch.dtype) -> None:
    a, b = (image.to(dtype) for image in images)
    for figure in (ssim, psnr):
        assert figure(a, b).dtype == torch.float32
        torch.testing.assert_close(figure(a, b), figure(a.float(), b.float()), atol=0, rtol=0)


def test_autocast_changes_nothing(images: Images) -> None:
    mask = (images[0][:, :1] > 0.4).float()
    plain = ssim(*images), psnr(*images), psnr(*images, mask)
    with torch.autocast("cpu", torch.bfloat16):
        cast = ssim(*images), psnr(*images), psnr(*images, mask)
    torch.testing.assert_close(cast, plain, atol=0, rtol=0)


def test_dssim_has_a_gradient() -> None:
    a, b = torch.rand(2, 1, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(dssim(a, b).sum(), a)
    step = torch.zeros_like(a)
    step[0, 0, 3, 2] = 1e-2
    with torch.no_grad():
        slope = (dssim(a + step, b) - dssim(a - step, b)) / 2e-2
    assert gradient[0, 0, 3, 2].item() == pytest.approx(slope.item(), rel=2e-2)


def test_psnr_agrees_with_skimage(images: Images) -> None:
    wanted = [
        skimage_metrics.peak_signal_noise_ratio(a.double().numpy(), b.double().numpy(), data_range=1)
        for a, b in zip(*images, strict=True)
    ]
    np.testing.assert_allclose(psnr(*images).numpy(), wanted, rtol=1e-5)


@pytest.mark.parametrize("masks", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.uint8])
def test_psnr_under_a_mask(images: Images, masks: int, dtype: torch.dtype) -> None:
    a, b = images
    mask = torch.rand(masks, 1, 40, 52, generator=torch.Generator().manual_seed(1)) > 0.6
    wanted = []
    for i in range(len(a)):
        errors = []
        for y, x in np.argwhere(mask[i % masks, 0].numpy()):
            errors.extend((a[i, :, y, x].double() - b[i, :, y, x].double()).tolist())
        wanted.append(10 * np.log10(1 / np.mean(np.square(errors))))
    np.testing.assert_allclose(psnr(a, b, mask.to(dtype)).numpy(), wanted, rtol=1e-5)


def test_psnr_of_identical_images_is_infinite(images: Images) -> None:
    assert (psnr(images[0], images[0]) == torch.inf).all()
    visible = torch.zeros(1, 1, 40, 52)
    visible[..., :20] = 1
    assert (psnr(images[0], images[0] * visible, visible) == torch.inf).all()
    assert (psnr(images[0], images[0] * visible, 1 - visible) < 20).all()


GOOD = torch.full((2, 3, 8, 8), 0.5)


@pytest.mark.parametrize("figure", [ssim, ssim_map, dssim, psnr])
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ((GOOD * 255).to(torch.uint8), GOOD, r"a is uint8; .*image / 255"),
        (GOOD, GOOD[0], r"b has shape \[3, 8, 8\]; give \[B, C, H, W\]"),
        (GOOD, GOOD[:1], r"a has shape \[2, 3, 8, 8\] and b \[1, 3, 8, 8\]"),
        (GOOD, GOOD * 255, r"b has values from 127.5 to 127.5; give floats in \[0, 1\]"),
        (GOOD - 1, GOOD, r"a has values from -0.5 to -0.5"),
        (GOOD, torch.full_like(GOOD, torch.nan), r"b has values from nan"),
        (GOOD[:0], GOOD[:0], r"a has shape \[0, 3, 8, 8\] and holds no pixel"),
        (GOOD, GOOD.to("meta"), r"a is on cpu and b on meta"),
    ],
)
def test_bad_images_are_named(figure: type, a: Tensor, b: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{figure.__name__}: {message}") as error:
        figure(a, b)
    assert "\n" not in str(error.value)


def test_images_below_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images are 5×8 px; .* needs at least 6 px"):
        ssim(GOOD[..., :5, :], GOOD[..., :5, :])
    assert psnr(GOOD[..., :5, :], GOOD[..., :5, :]).shape == (2,)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(3, 1, 8, 8), r"mask has shape \[3, 1, 8, 8\]; give \[1 or 2, 1, 8, 8\] .*mask_index"),
        (torch.ones(2, 3, 8, 8), r"mask has shape \[2, 3, 8, 8\]"),
        (torch.ones(8, 8), r"mask has shape \[8, 8\]"),
        (torch.full((1, 1, 8, 8), 255), "mask has values other than 0 and 1"),
        (torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8), "mask 1 selects no pixel"),
    ],
)
def test_bad_masks_are_named(mask: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"^psnr: {message}"):
        psnr(GOOD, GOOD, mask)
