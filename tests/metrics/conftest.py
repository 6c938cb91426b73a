from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

Pairs = tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.int64]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: on images this small two on a busy machine only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    """Smooth shapes and noise, and the same under a mask with some noise: `[5,3,40,52]` each."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(5, 3, 6, 8, generator=generator)
    a = torch.nn.functional.interpolate(coarse, (40, 52), mode="bilinear", align_corners=True)
    a = 0.2 + 0.5 * a + 0.1 * torch.rand(a.shape, generator=generator)
    b = (a + 0.1 * torch.randn(a.shape, generator=generator)).clamp(0, 1)
    return a, b * (torch.rand(5, 1, 40, 52, generator=generator) > 0.3)


@pytest.fixture
def pairs() -> Callable[..., Pairs]:
    """Return scored pairs: `pairs(count, folds, step)`; a step above 0 rounds the scores into ties."""

    def make(count: int = 400, folds: int = 10, step: float = 0.0, seed: int = 0) -> Pairs:
        rng = np.random.default_rng(seed)
        same = rng.random(count) < 0.5
        scores = rng.normal(size=count) + 1.5 * same
        if step:
            scores = np.round(scores / step) * step
        # uneven folds with labels that neither start at 0 nor follow each other
        fold = 3 + 2 * np.floor(folds * rng.random(count) ** 1.5).astype(np.int64)
        return scores, same, fold

    return make
