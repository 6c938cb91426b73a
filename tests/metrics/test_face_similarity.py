from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_app.metrics.face_similarity import face_similarity


def cone(count: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings in a narrow cone, and noisy ones of the same images, all moved alike."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randn(count, 16, generator=generator) + 8
    moved = clean + torch.randn(count, 16, generator=generator) + torch.linspace(-5, 5, 16)
    return moved, clean


def test_against_numpy_written_out() -> None:
    seen, clean = cone()
    found = face_similarity(seen, clean, bootstrap=200)
    a, b = (side.double().numpy() for side in (seen, clean))
    a, b = a - a.mean(0), b - b.mean(0)
    cosines = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (
        b / np.linalg.norm(b, axis=1, keepdims=True)
    ).T
    assert found.mean == pytest.approx(float(np.diag(cosines).mean()), abs=1e-6)
    assert found.impostor == pytest.approx(float(cosines[~np.eye(len(a), dtype=bool)].mean()), abs=1e-6)
    assert found.rank1 == float((cosines.argmax(1) == np.arange(len(a))).mean())
    assert 0.5 < found.rank1 < 1
    assert found.low < found.mean < found.high


def test_without_centring_strangers_would_look_alike() -> None:
    seen, clean = cone()
    raw = torch.nn.functional.cosine_similarity(clean, clean.roll(1, 0)).mean()
    found = face_similarity(seen, clean, bootstrap=0)
    assert raw > 0.95
    assert abs(found.impostor) < 0.05


def test_images_themselves_have_one_and_are_all_found() -> None:
    _, clean = cone()
    found = face_similarity(clean, clean, bootstrap=20)
    assert found.mean == pytest.approx(1, abs=1e-6)
    assert found.rank1 == 1


def test_one_and_the_same_for_all_says_nothing() -> None:
    _, clean = cone()
    found = face_similarity(torch.full_like(clean, 0.1), clean, bootstrap=20)
    assert (found.mean, found.impostor, found.rank1) == (0, 0, 0)


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"face_similarity: \[3, 4\] and \[4, 4\]; give two \[N,D\] of one shape"
    ):
        face_similarity(torch.zeros(3, 4), torch.zeros(4, 4))
    with pytest.raises(ValueError, match="N at least 2"):
        face_similarity(torch.zeros(1, 4), torch.zeros(1, 4))
