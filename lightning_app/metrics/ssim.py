"""SSIM, dSSIM and PSNR of image pairs, as pure functions of tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_RADIUS = 5  # an 11×11 window
_SIGMA = 1.5
_C1 = 0.01**2  # (K1 · data range)²
_C2 = 0.03**2  # (K2 · data range)²
_GREY = 0.5
_SLACK = 1e-3  # how far outside [0,1] a value may lie: rounding of half precision, not another scale
# Pixels worked on at once. On a CPU a few planes stay in cache, which is most of the speed; a GPU wants
# the whole batch and only a bound on its memory (about 1 GiB of temporaries).
_CHUNK_CPU = 2**17
_CHUNK_GPU = 2**24


def _gaussian() -> list[float]:
    taps = [math.exp(-(k**2) / (2 * _SIGMA**2)) for k in range(_RADIUS + 1)]
    total = taps[0] + 2 * sum(taps[1:])
    return [tap / total for tap in taps]


_TAPS = _gaussian()  # from the centre outwards; the other half mirrors it


def _check_pair(name: str, a: Tensor, b: Tensor, smallest: int) -> None:
    for label, image in (("a", a), ("b", b)):
        if not image.is_floating_point():
            kind = str(image.dtype).removeprefix("torch.")
            raise ValueError(f"{name}: {label} is {kind}; give floats in [0, 1] (uint8 images: image / 255)")
        if image.ndim != 4:
            raise ValueError(f"{name}: {label} has shape {list(image.shape)}; give [B, C, H, W]")
    if a.shape != b.shape:
        raise ValueError(
            f"{name}: a has shape {list(a.shape)} and b {list(b.shape)}; compare images of the same shape"
        )
    if a.device != b.device:
        raise ValueError(f"{name}: a is on {a.device} and b on {b.device}; move both to one device")
    if a.numel() == 0:
        raise ValueError(f"{name}: a has shape {list(a.shape)} and holds no pixel; give at least one image")
    if min(a.shape[-2:]) < smallest:
        raise ValueError(
            f"{name}: images are {a.shape[-2]}×{a.shape[-1]} px; the 11×11 window, reflected at the border, "
            f"needs at least {smallest} px each way"
        )
    # one transfer for both images: each is a wait for a GPU
    low_a, high_a, low_b, high_b = torch.stack(
        [bound.float() for image in (a, b) for bound in torch.aminmax(image.detach())]
    ).tolist()
    for label, low, high in (("a", low_a, high_a), ("b", low_b, high_b)):
        if not (low >= -_SLACK and high <= 1 + _SLACK):  # so written, NaN is refused too
            raise ValueError(
                f"{name}: {label} has values from {low:.4g} to {high:.4g}; give floats in [0, 1] without NaN"
            )


def _blur(planes: Tensor, dim: int) -> Tensor:
    # Shifted adds, not a convolution: several times faster on a CPU, and never in TF32, bf16 or fp16,
    # whatever the matmul precision or autocast say. The small outer taps come first: they lose fewer digits.
    size = planes.shape[dim] - 2 * _RADIUS
    blurred = planes.narrow(dim, 0, size) * _TAPS[_RADIUS]
    blurred.add_(planes.narrow(dim, 2 * _RADIUS, size), alpha=_TAPS[_RADIUS])
    for k in range(_RADIUS - 1, 0, -1):
        blurred.add_(planes.narrow(dim, _RADIUS - k, size), alpha=_TAPS[k])
        blurred.add_(planes.narrow(dim, _RADIUS + k, size), alpha=_TAPS[k])
    return blurred.add_(planes.narrow(dim, _RADIUS, size), alpha=_TAPS[0])


def _dissimilarity(a: Tensor, b: Tensor) -> Tensor:
    """Return 1 − SSIM of each pixel of `[N,H,W]` planes.

    With d = a − b both factors of SSIM are one minus a non-negative quotient,
    luminance 1 − μ_d² / (μ_a² + μ_b² + C1) and structure 1 − σ_d² / (σ_a² + σ_b² + C2).
    Written so, equal images give exactly 0, and there are four planes to blur, not five. Moments are taken
    about mid-grey: E[x²] − E[x]² in fp32 would cost a bright flat patch the digits that C2 = 9e-4 needs.
    """
    border = (_RADIUS,) * 4
    a = F.pad(a.float() - _GREY, border, mode="reflect")
    b = F.pad(b.float() - _GREY, border, mode="reflect")
    d = a - b
    planes = torch.stack((a, d, torch.addcmul(a * a, b, b), d * d))  # [4,N,H+10,W+10]
    mean_a, mean_d, square, square_d = _blur(_blur(planes, -2), -1).unbind(0)
    mean_b = mean_a - mean_d
    variances = (square - torch.addcmul(mean_a * mean_a, mean_b, mean_b)).clamp(min=0)
    mean_a, mean_b, mean_d = mean_a + _GREY, mean_b + _GREY, mean_d * mean_d
    luminance = mean_d / (torch.addcmul(mean_a * mean_a, mean_b, mean_b) + _C1)
    structure = (square_d - mean_d).clamp(min=0) / (variances + _C2)
    return luminance + structure - luminance * structure


def _chunks(a: Tensor, b: Tensor) -> list[tuple[Tensor, Tensor]]:
    pixels = _CHUNK_CPU if a.device.type == "cpu" else _CHUNK_GPU
    planes = max(1, pixels // (a.shape[-2] * a.shape[-1]))
    return list(zip(torch.split(a.flatten(0, 1), planes), torch.split(b.flatten(0, 1), planes), strict=True))


def ssim_map(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity of every pixel of image pairs.

    SSIM = (2 μ_a μ_b + C1)(2 σ_ab + C2) / ((μ_a² + μ_b² + C1)(σ_a² + σ_b² + C2)) with C1 = 0.01², C2 = 0.03²,
    and means, variances and covariance under an 11×11 Gaussian window of σ = 1.5, per channel; the border is
    reflected. Computed in fp32 whatever the precision of the input, also under autocast; against fp64 a pixel
    of a photograph is off by at most some 2e-5 (bright flat patches), a mean by 1e-7.

    Args:
        a: `[B,C,H,W]` float in [0,1], at least 6 px each way.
        b: the same shape and range.

    Returns:
        `[B,C,H,W]` float32 in [−1,1]; 1 where the images agree.

    Raises:
        ValueError: shapes differ, no float, values outside [0,1] or NaN, images too small.

    Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural
    similarity", IEEE TIP 2004, formula 13; population (not sample) covariance.

    Example:
        >>> import torch
        >>> grey = torch.full((1, 3, 8, 8), 0.5)
        >>> ssim_map(grey, grey).shape, ssim_map(grey, grey).unique().tolist()
        (torch.Size([1, 3, 8, 8]), [1.0])
    """
    _check_pair("ssim_map", a, b, smallest=_RADIUS + 1)
    return 1 - torch.cat([_dissimilarity(x, y) for x, y in _chunks(a, b)]).view(a.shape)


def _mean_dissimilarity(a: Tensor, b: Tensor) -> Tensor:
    means = torch.cat([_dissimilarity(x, y).mean((-2, -1)) for x, y in _chunks(a, b)])
    return means.view(a.shape[:2]).mean(1)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity of image pairs: the mean of `ssim_map` over channels and pixels.

    Args:
        a: `[B,C,H,W]` float in [0,1], at least 6 px each way.
        b: the same shape and range.

    Returns:
        `[B]` float32 in [−1,1]; 1 for equal images.

    Raises:
        ValueError: shapes differ, no float, values outside [0,1] or NaN, images too small.

    Source: Wang et al. 2004 (see `ssim_map`); means as torchmetrics takes them, border included.

    Example:
        >>> import torch
        >>> black, white = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)
        >>> ssim(white, white).tolist()
        [1.0, 1.0]
        >>> [f"{value:.4f}" for value in ssim(black, white)]  # C1 / (1 + C1)
        ['0.0001', '0.0001']
    """
    _check_pair("ssim", a, b, smallest=_RADIUS + 1)
    return 1 - _mean_dissimilarity(a, b)


def dssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural dissimilarity of image pairs, dSSIM = 1 − SSIM.

    Args:
        a: `[B,C,H,W]` float in [0,1], at least 6 px each way.
        b: the same shape and range.

    Returns:
        `[B]` float32 in [0,2]; 0 for equal images, higher = less alike.

    Raises:
        ValueError: shapes differ, no float, values outside [0,1] or NaN, images too small.

    Source: Wang et al. 2004 (see `ssim_map`).

    Example:
        >>> import torch
        >>> black, white = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
        >>> f"{dssim(black, white).item():.4f}"
        '0.9999'
    """
    _check_pair("dssim", a, b, smallest=_RADIUS + 1)
    return _mean_dissimilarity(a, b)


def psnr(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the peak signal-to-noise ratio of image pairs, PSNR = 10 log10(1 / MSE).

    The mean squared error runs over channels and pixels, or over those pixels alone where the mask is 1; give
    `1 − mask` for the hidden ones. Computed in fp32 whatever the precision of the input.

    Args:
        a: `[B,C,H,W]` float in [0,1].
        b: the same shape and range.
        mask: `[1,1,H,W]` (shared) or `[B,1,H,W]` of 0 and 1, any dtype; None for all pixels. Of M distinct
            masks give `mask[mask_index]`.

    Returns:
        `[B]` float32 in dB; higher = more alike, inf for identical images.

    Raises:
        ValueError: shapes differ, no float, values outside [0,1] or NaN, a mask of another shape, with other
            values or that selects no pixel.

    Example:
        >>> import torch
        >>> black, grey = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.1)
        >>> f"{psnr(black, grey).item():.2f} dB"
        '20.00 dB'
        >>> psnr(grey, grey).item()
        inf
    """
    _check_pair("psnr", a, b, smallest=1)
    square = (a.float() - b.float()).square().sum(1)  # [B,H,W]
    if mask is None:
        mse = square.mean((-2, -1)) / a.shape[1]
    else:
        if mask.ndim != 4 or mask.shape[0] not in (1, len(a)) or mask.shape[1:] != (1, *a.shape[-2:]):
            raise ValueError(
                f"psnr: mask has shape {list(mask.shape)}; give "
                f"[1 or {len(a)}, 1, {a.shape[-2]}, {a.shape[-1]}] (of M distinct masks: mask[mask_index])"
            )
        chosen = (mask == 1)[:, 0]  # [1|B,H,W]
        count = chosen.sum((-2, -1))
        foreign, empty = torch.stack([(~chosen & (mask != 0)[:, 0]).any(), (count == 0).any()]).tolist()
        if foreign:
            raise ValueError("psnr: mask has values other than 0 and 1; 1 marks the pixels to compare")
        if empty:
            number = int((count == 0).nonzero()[0])
            raise ValueError(f"psnr: mask {number} selects no pixel; 1 marks the pixels to compare")
        # where, not a product: autocast cannot touch it and the gradient of unselected pixels is plainly 0
        mse = torch.where(chosen, square, 0).sum((-2, -1)) / (count * a.shape[1])
    return -10 * mse.log10()
