"""From saliency maps to the critical template: what of a face must stay visible.

Source: paper, section 3.2, Mean Saliency Map and formula 4; what the paper leaves open: design, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from captum.attr import Attribution
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_app.masks.bits import Size, as_size
from lightning_app.masks.saliency.ebp import ExcitationBackprop

Signed = Literal["positive", "absolute"]
_REACH = 3  # standard deviations at which the Gaussian window is cut off
_FLAT = 1e-5  # a map whose range is this share of its largest value is constant: the rest is fp32's rounding


def enlarge(maps: Tensor, size: Size, sigma: float = 0.0) -> Tensor:
    """Bring maps to the images' size, bilinearly, and smooth them.

    Maps read at or above a strided layer have cells that take part in more windows than their neighbours, and
    show a checkerboard; a sigma of about the image's side divided by the map's takes it away.

    Args:
        maps: `[K,C,h,w]` float.
        size: side or (height, width) of the result in pixels.
        sigma: standard deviation of the Gaussian in pixels of the result; 0 smooths nothing. Beyond the edge the
            edge pixel goes on.

    Returns:
        `[K,C,H,W]` float32.

    Raises:
        ValueError: on another shape, or a sigma that is negative or not finite.
    """
    _check_maps(maps)
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma: {sigma} is not a number of pixels; take 0 for no smoothing, or more")
    height, width = as_size(size)
    out = maps.to(torch.float32)
    if out.shape[-2:] != (height, width):
        out = F.interpolate(out, (height, width), mode="bilinear", align_corners=False)
    if sigma == 0:
        return out
    reach = math.ceil(_REACH * sigma)
    weights = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-reach, reach + 1)]
    total = math.fsum(weights)
    # sums of shifted maps, no convolution: exact fp32 on every device, whatever TF32 or autocast say
    for axis, pad in ((-1, (reach, reach, 0, 0)), (-2, (0, 0, reach, reach))):
        padded = F.pad(out, pad, mode="replicate")
        out = torch.zeros_like(out)
        for start, weight in enumerate(weights):
            out.add_(padded.narrow(axis, start, out.shape[axis]), alpha=weight / total)
    return out


def nonnegative(attributions: Tensor, signed: Signed = "positive") -> Tensor:
    """Reduce what an attribution method returns to one non-negative map an image.

    Args:
        attributions: `[B,C,h,w]`, any sign, channels of a feature map or of the pixels.
        signed: `positive` sums the channels and drops what is below 0, so that only evidence for the target counts
            (Grad-CAM's own rule, right for integrated gradients and occlusion too); `absolute` sums the absolute
            values, for plain gradients, whose sign says nothing about importance.

    Returns:
        `[B,1,h,w]` float32 ≥ 0, detached.

    Raises:
        ValueError: on another shape, an unknown `signed`, or values that are not finite.
    """
    _check_maps(attributions)
    if signed not in ("positive", "absolute"):
        raise ValueError(f"signed: {signed!r} is neither positive nor absolute")
    values = attributions.detach().to(torch.float32)
    if signed == "absolute":
        return values.abs().sum(dim=1, keepdim=True)
    return values.sum(dim=1, keepdim=True).clamp_(min=0)


class MeanSaliency:
    """The mean saliency map of any number of faces, a batch at a time; memory does not grow with K.

    Every map is made non-negative (`nonnegative`), enlarged and smoothed (`enlarge`), min–max normalised, and
    averaged; the mean is min–max normalised again. A constant map (a black face) says nothing and counts as 0.

    Args:
        size: side or (height, width) of the result in pixels.
        sigma: of the Gaussian, in pixels of the result; 0 smooths nothing.
        signed: what to do with maps below 0.

    Attributes:
        count: K, maps seen so far, constant ones included.
        constant: how many of them were constant.
    """

    def __init__(self, size: Size, sigma: float = 0.0, signed: Signed = "positive") -> None:
        self.size, self.sigma, self.signed = as_size(size), sigma, signed
        self.count = self.constant = 0
        self._sum = torch.zeros(1, *self.size, dtype=torch.float64)  # float64: 10,000 maps in any order

    @torch.no_grad()
    def update(self, maps: Tensor) -> None:
        """Take a batch of maps in.

        Args:
            maps: `[K,C,h,w]` float, any sign, any device.

        Raises:
            ValueError: on another shape, or values that are not finite.
        """
        normalised, constant = _minmax(enlarge(nonnegative(maps, self.signed), self.size, self.sigma))
        self._sum += normalised.sum(dim=0).to("cpu", torch.float64)
        self.count += len(maps)
        self.constant += int(constant.sum())

    def compute(self) -> Tensor:
        """Return the mean saliency map so far, `[1,H,W]` float32 on the CPU, its least value 0 and its largest 1.

        Raises:
            ValueError: no map was taken in, or the mean is constant.
        """
        if self.count == 0:
            raise ValueError("maps: none to average; give at least one face")
        mean, constant = _minmax((self._sum / self.count).to(torch.float32).unsqueeze(0))
        if bool(constant):
            raise ValueError(
                f"maps: the mean of {self.count} is constant ({self.constant} of them are), so no pixel matters more "
                "than another; are the faces black, or is the model untrained?"
            )
        return mean[0]


def mean_saliency(maps: Tensor, size: Size, sigma: float = 0.0, signed: Signed = "positive") -> Tensor:
    """Return the mean saliency map of K faces (paper, 3.2), see `MeanSaliency`, which takes them in batches.

    Args:
        maps: `[K,C,h,w]` float, any number of channels, any sign.
        size: side or (height, width) of the result in pixels.
        sigma: of the Gaussian, in pixels of the result; 0 smooths nothing.
        signed: what to do with maps below 0, see `nonnegative`.

    Returns:
        `[1,H,W]` float32 in [0,1], on the CPU.

    Raises:
        ValueError: as `MeanSaliency`.
    """
    mean = MeanSaliency(size, sigma, signed)
    mean.update(maps)
    return mean.compute()


def check_threshold(threshold: float) -> float:
    """Return T; refuse one that formula 4 does not know.

    Args:
        threshold: T.

    Raises:
        ValueError: it is not in [0, 1).
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold: {threshold} is not in [0, 1); the paper takes 0.3 to 0.7")
    return threshold


def critical_template(maps: Tensor, threshold: float) -> Tensor:
    """Return what must stay visible: the pixels whose mean saliency is above T (paper, formula 4).

    Args:
        maps: `[K,1,H,W]` saliency maps of K faces at the images' size, of any scale: `mean_saliency` normalises and
            averages them. Or `[1,H,W]`, a mean saliency map in [0,1], taken as it is.
        threshold: T in [0, 1); the paper goes from 0.3 to 0.7.

    Returns:
        S `[1,H,W]` float32 of 0 (hidden) and 1 (visible), on the maps' device.

    Raises:
        ValueError: a threshold out of range, maps of another shape or range, or no pixel above T; the message
            then says which T to try.
    """
    check_threshold(threshold)
    if maps.ndim == 4 and maps.shape[1] == 1:
        mean = mean_saliency(maps, (maps.shape[-2], maps.shape[-1])).to(maps.device)
    elif maps.ndim == 3 and maps.shape[0] == 1 and maps.numel() > 0:
        mean = maps.detach().to(torch.float32)
    else:
        raise ValueError(
            f"maps: shape {list(maps.shape)} is neither [K, 1, H, W] (K maps) nor [1, H, W] (their mean)"
        )
    low, high = float(mean.min()), float(mean.max())
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise ValueError(
            f"maps: a mean saliency map lies in [0, 1], this one in [{low:.4g}, {high:.4g}]; use mean_saliency"
        )
    template = (mean > threshold).to(torch.float32)
    if not bool(template.any()):
        if high == 0:
            raise ValueError("maps: the mean saliency is 0 everywhere, no threshold leaves a pixel")
        tenth = min(float(mean.flatten().quantile(0.9)), 0.9 * high)  # leaves about a tenth of the pixels
        some = math.floor(tenth * 1000) / 1000
        raise ValueError(
            f"threshold: {threshold} leaves nothing visible; any T below {high:.4g} leaves something, try {some:g}"
        )
    return template


def saliency_maps(
    attribution: Attribution, batches: Iterable[tuple[Any, ...]], signed: Signed = "positive", **options: Any
) -> Iterator[Tensor]:
    """Yield the saliency maps of batch after batch, by excitation backprop or any other captum method.

    Args:
        attribution: an instance, such as `ExcitationBackprop(model)`, `captum.attr.IntegratedGradients(model)`,
            `LayerGradCam(model, model.backbone.layer4)` or `Occlusion(model)`.
        batches: (inputs `[B,3,H,W]` normalised, target), and, where it differs from batch to batch, a dict of
            further arguments of `attribute`, such as `{"nonmate": …}`.
        signed: how maps with values below 0 are reduced, see `nonnegative`.
        options: further arguments of `attribute`, such as `sliding_window_shapes` of `Occlusion`.

    Yields:
        `[B,1,h,w]` float32 ≥ 0, detached, at the method's own resolution, for `MeanSaliency.update`.

    Raises:
        ValueError: a model in training mode (but for excitation backprop, which does not mind), or what the method
            returns is not one map an image.
    """
    for inputs, target, *more in batches:
        model = attribution.forward_func
        if (
            isinstance(model, nn.Module)
            and model.training
            and not isinstance(attribution, ExcitationBackprop)
        ):
            raise ValueError(
                f"attribution: the model is in training mode, where {type(attribution).__name__} would change its "
                "batch norms; call eval() first"
            )
        found = attribution.attribute(inputs, target=target, **options, **(more[0] if more else {}))
        if isinstance(found, tuple) and len(found) == 1:
            found = found[0]
        if not isinstance(found, Tensor) or len(found) != len(inputs):
            raise ValueError(
                f"attribution: {type(attribution).__name__} did not return one map for each image"
            )
        yield nonnegative(found, signed)


def _check_maps(maps: Tensor) -> None:
    if maps.ndim != 4 or 0 in maps.shape[1:] or not maps.is_floating_point():
        raise ValueError(f"maps: {maps.dtype} of shape {list(maps.shape)}; give floats of shape [K, C, h, w]")
    if not bool(maps.isfinite().all()):
        raise ValueError("maps: hold NaN or infinite values")


def _minmax(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return `[K,1,H,W]` normalised to [0,1] one by one, constant ones to 0, and which are constant `[K]`."""
    low, high = maps.amin(dim=(1, 2, 3), keepdim=True), maps.amax(dim=(1, 2, 3), keepdim=True)
    constant = high - low <= _FLAT * high.abs()
    scaled = (maps - low) / (high - low).masked_fill(constant, 1)
    return scaled.masked_fill(constant, 0), constant.flatten()
