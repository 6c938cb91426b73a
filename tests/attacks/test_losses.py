"""The losses against NumPy, written out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_app.attacks.losses import gram, l1, perceptual, restoration, style, total_variation

Array = NDArray[np.float64]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def array(x: Tensor) -> Array:
    return x.numpy().astype(np.float64)


def slow_gram(x: Array) -> Array:
    out = np.zeros((x.shape[0], x.shape[1], x.shape[1]))
    for b in range(x.shape[0]):
        for i in range(x.shape[1]):
            for j in range(x.shape[1]):
                out[b, i, j] = (x[b, i] * x[b, j]).sum() / x[b].size
    return out


def slow_tv(x: Array, mask: Array | None) -> float:
    """Step by step; a step between two visible pixels counts 0."""
    total = 0.0
    count, channels, height, width = x.shape
    for dy, dx in ((0, 1), (1, 0)):
        steps = []
        for b in range(count):
            for c in range(channels):
                for i in range(height - dy):
                    for j in range(width - dx):
                        step = abs(x[b, c, i + dy, j + dx] - x[b, c, i, j])
                        both = mask is not None and mask[b, 0, i, j] == mask[b, 0, i + dy, j + dx] == 1
                        steps.append(0.0 if both else step)
        total += float(np.mean(steps))
    return total


def some_mask() -> Tensor:
    return (draw(2, 1, 6, 5, seed=9) > 0.5).float()


def test_l1() -> None:
    a, b, mask = draw(2, 3, 6, 5), draw(2, 3, 6, 5, seed=1), some_mask()
    assert l1(a, b).item() == pytest.approx(np.abs(array(a) - array(b)).mean(), abs=1e-6)
    expected = (np.abs(array(a) - array(b)) * array(mask)).mean()
    assert l1(a, b, mask).item() == pytest.approx(expected, abs=1e-6)


def test_gram_and_style() -> None:
    shapes = ((2, 4, 3, 5), (2, 6, 2, 2))
    a = [draw(*shape, seed=i) for i, shape in enumerate(shapes)]
    b = [draw(*shape, seed=i + 5) for i, shape in enumerate(shapes)]
    np.testing.assert_allclose(gram(a[0]).numpy(), slow_gram(array(a[0])), atol=1e-6)
    expected = sum(
        np.abs(slow_gram(array(x)) - slow_gram(array(y))).mean() for x, y in zip(a, b, strict=True)
    )
    assert style(a, b).item() == pytest.approx(expected, abs=1e-6)
    expected = sum(np.abs(array(x) - array(y)).mean() for x, y in zip(a, b, strict=True))
    assert perceptual(a, b).item() == pytest.approx(expected, abs=1e-6)


def test_gram_is_exact_under_autocast() -> None:
    x = draw(1, 4, 40, 40)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gram(x), gram(x.clone()))
        assert gram(x).dtype == torch.float32
        np.testing.assert_allclose(gram(x).numpy(), slow_gram(array(x)), atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_total_variation(masked: bool) -> None:
    x, mask = draw(2, 3, 6, 5), some_mask() if masked else None
    expected = slow_tv(array(x), None if mask is None else array(mask))
    assert total_variation(x, mask).item() == pytest.approx(expected, abs=1e-6)


def features(x: Tensor) -> Sequence[Tensor]:
    return [x[:, :, ::2] ** 2, x.mean(1, keepdim=True).expand(-1, 4, -1, -1) * 3]


def slow_features(x: Array) -> list[Array]:
    return [x[:, :, ::2] ** 2, np.repeat(x.mean(1, keepdims=True), 4, 1) * 3]


@pytest.mark.parametrize("masked", [False, True])
def test_restoration_loss_part_by_part(masked: bool) -> None:
    output, clean, mask = draw(2, 3, 6, 5) * 1.2, draw(2, 3, 6, 5, seed=1), some_mask()
    found = restoration(output, clean, mask if masked else None, features)
    o, c, m = array(output), array(clean), array(mask)
    composite = o * (1 - m) + c * m
    true = slow_features(c)
    guesses = [slow_features(o), slow_features(composite)] if masked else [slow_features(o)]
    expected = {
        "valid": (np.abs(o - c) * m).mean() if masked else 0.0,
        "hole": (np.abs(o - c) * (1 - m)).mean() if masked else np.abs(o - c).mean(),
        "tv": slow_tv(composite, m) if masked else slow_tv(o, None),
        "perceptual": sum(
            np.abs(x - y).mean() for guess in guesses for x, y in zip(guess, true, strict=True)
        ),
        "style": sum(
            np.abs(slow_gram(x) - slow_gram(y)).mean()
            for guess in guesses
            for x, y in zip(guess, true, strict=True)
        ),
    }
    assert {name: part.item() for name, part in found.items()} == pytest.approx(expected, abs=1e-6)


def test_without_features_two_parts_are_missing() -> None:
    assert set(restoration(draw(2, 3, 6, 5), draw(2, 3, 6, 5, seed=1))) == {"valid", "hole", "tv"}


def test_the_truth_costs_nothing_but_its_own_variation() -> None:
    clean, mask = draw(2, 3, 6, 5), some_mask()
    parts = restoration(clean, clean, mask, features)
    assert parts["tv"] > 0
    assert all(parts[name] == 0 for name in ("valid", "hole", "perceptual", "style"))


def test_gradients_reach_the_output_through_every_part() -> None:
    for name in ("valid", "hole", "perceptual", "style", "tv"):
        output = draw(2, 3, 6, 5).requires_grad_()
        restoration(output, draw(2, 3, 6, 5, seed=1), some_mask(), features)[name].backward()
        assert output.grad is not None
        assert output.grad.abs().sum() > 0, name
