"""Laplace noise on a grid: its distribution, its tail, and of what it is a function."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from lightning_app.core import draws, laplace
from lightning_app.core.laplace import PER_SCALE, add_laplace, hashed_places, image_hash, laplace_steps
from lightning_app.desensitize.dct import grey

KEYS = [[draws.seed_from(which, n) for n in range(4)] for which in range(3)]


def drawn(scale: float, images: int = 50, places: int = 1000) -> Tensor:
    where = hashed_places(places, KEYS[1], torch.device("cpu"))
    return laplace_steps(torch.arange(images), where, scale, KEYS[2])


@pytest.mark.parametrize("epsilon", [0.5, 3.0, 20.0])
def test_the_scale_is_one_over_epsilon(epsilon: float) -> None:
    """Kolmogorov and Smirnov's test against SciPy's Laplace, of a value whose range is 1."""
    noise = (drawn(PER_SCALE).double() / PER_SCALE / epsilon).flatten().numpy()
    assert len(noise) == 100_000
    assert stats.kstest(noise, "laplace", args=(0, 1 / epsilon)).pvalue > 0.01
    for other in (0.97, 1.03):  # so many draws tell three percent apart
        assert stats.kstest(noise, "laplace", args=(0, other / epsilon)).pvalue < 0.01


@pytest.mark.parametrize("scale", [1.5, 85.0])
def test_on_a_coarse_grid_it_is_laplace_rounded(scale: float) -> None:
    """Each whole number comes as often as the reference says (χ²)."""
    noise = drawn(scale).flatten().numpy()
    most = int(4 * scale)
    edges = np.concatenate([[-np.inf], np.arange(-most, most + 2) - 0.5, [np.inf]])
    share = np.diff(stats.laplace.cdf(edges, scale=scale))
    found = np.histogram(noise, np.nan_to_num(edges, posinf=1e9, neginf=-1e9))[0]
    assert stats.chisquare(found, share * found.sum()).pvalue > 0.01
    assert bool((noise == np.round(noise)).all())


def test_the_tail_has_no_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uniforms below 2⁻¹⁹ get 63 bits more: here all do, whose 31 bits are below a quarter."""
    many = drawn(PER_SCALE, 200, 500)
    monkeypatch.setattr(laplace, "_FEW", 1 << 29)
    finer = drawn(PER_SCALE, 200, 500)
    bulk = many.abs() < PER_SCALE * np.log(4) - 1
    assert torch.equal(many[bulk], finer[bulk])
    assert (many - finer).abs().max() <= 1, "the same draws, with further bits"
    noise = (finer.double() / PER_SCALE).flatten().numpy()
    assert stats.kstest(noise, "laplace").pvalue > 0.01


def test_a_hash_that_is_almost_nothing_is_drawn_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """31 bits of zeros are not one size but as many as 63 further bits make."""
    hashes = torch.zeros(1, 1, dtype=torch.int64)
    real = draws.secret
    monkeypatch.setattr(
        draws, "secret", lambda counter, keys: hashes if counter.ndim == 2 else real(counter, keys)
    )
    sizes = {
        float(one)
        for n in range(200)
        for one in laplace_steps(torch.tensor([0]), torch.tensor([0]), 1024.0, [n, n + 1, n + 2, n + 3])[0]
    }
    assert len(sizes) > 300
    assert min(sizes) >= 1024 * 31 * np.log(2) - 1


def test_any_size_of_batch_and_chunk_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.tensor([5, 9, 2])
    values = torch.arange(3 * 77).float().view(3, 77)
    whole = add_laplace(values.clone(), 85.0, image, KEYS[2], KEYS[1])
    monkeypatch.setattr(laplace, "_CACHED", 8)
    assert torch.equal(add_laplace(values.clone(), 85.0, image, KEYS[2], KEYS[1]), whole)
    assert torch.equal(add_laplace(values[1:2].clone(), 85.0, image[1:2], KEYS[2], KEYS[1])[0], whole[1])
    noise = whole - values
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0, :38], noise[0, 38:76])


def test_a_devices_rounding_does_not_change_an_images_hash() -> None:
    """A GPU multiplies by 1/255 where a CPU divides: half of all levels get another last bit."""
    levels = torch.randint(0, 256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(1)).float()
    divided, multiplied = levels / 255, levels * torch.tensor(1 / 255)
    assert not torch.equal(divided, multiplied)
    assert torch.equal(image_hash(divided, KEYS[0]), image_hash(multiplied, KEYS[0]))
    assert torch.equal(image_hash(grey(divided), KEYS[0]), image_hash(grey(multiplied), KEYS[0]))


def test_images_hash_by_what_they_show() -> None:
    image = torch.randint(0, 256, (4, 3, 9, 9)).float() / 255
    image[3] = image[0]
    image[2] = image[0]
    image[2, 1, 4, 4] += 1 / 255
    found = image_hash(image, KEYS[0])
    assert found[0] == found[3]
    assert len(found.unique()) == 3
    assert image_hash(image.flip(3), KEYS[0])[0] != found[0]
    assert torch.equal(image_hash(image[1:2], KEYS[0])[0], found[1])
    assert not bool((image_hash(image, KEYS[1]) == found).any()), "under another key"
