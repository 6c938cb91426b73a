"""A blur and a mosaic are told from clean faces without the raw image."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from datamodules import DrawnFaces
from lightning_app.desensitize import Desensitizer, GaussianBlur, Mosaic
from lightning_app.desensitize.blur import blur, default_sigma, gaussian_taps
from lightning_app.release import Manifest
from lightning_app.release.audit import audit
from lightning_app.release.traces import Traces, _response, _spectrum

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def faces(size: int) -> list[Pixels]:
    reader = DrawnFaces(identities=2, images_per_identity=3, size=size, seed=4)
    return [np.ascontiguousarray(reader.read(i).transpose(1, 2, 0)) for i in range(len(reader))]


def noise(size: int) -> list[Pixels]:
    """The most that a blur can have to do: pixels of 0 and 255, at random and as a chessboard."""
    rng = np.random.default_rng(0)
    board = (np.indices((size, size)).sum(0) % 2)[..., None]
    return [(255 * x).astype(np.uint8) for x in (rng.integers(0, 2, (size, size, 3)), board.repeat(3, 2))]


def veiled(veil: Desensitizer, pixels: Pixels) -> Pixels:
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    return np.ascontiguousarray((veil.veil(image) * 255).round().to(torch.uint8)[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("size", [20, 33])
@pytest.mark.parametrize(
    ("kernel", "sigma"), [(9, None), (18, None), (3, None), (9, 0.5), (7, 19.0), (2, None)]
)
def test_a_blurred_image_passes_whatever_was_blurred(size: int, kernel: int, sigma: float | None) -> None:
    traces = Traces(size, taps=gaussian_taps(kernel, sigma))
    for pixels in [*faces(size), *noise(size)]:
        assert traces.faults(veiled(GaussianBlur(kernel, sigma), pixels)) == []
        assert traces.faults(veiled(GaussianBlur(kernel, sigma), pixels)[..., :1]) == []


@pytest.mark.parametrize("kernel", [9, 18])
def test_a_clean_image_does_not_and_nor_does_a_weaker_blur(kernel: int) -> None:
    traces = Traces(48, taps=gaussian_taps(kernel))
    for pixels in [*faces(48), *noise(48)]:
        assert "is not blurred as its method says" in traces.faults(pixels)[0]
        assert "is not blurred" in traces.faults(veiled(GaussianBlur(3, 0.5), pixels))[0]
    one = faces(48)[0]
    partly = veiled(GaussianBlur(kernel), one)
    partly[10:34, 10:34] = one[10:34, 10:34]
    assert traces.faults(partly), "a clean centre"


def test_waves_against_scipys_transform() -> None:
    x = np.random.default_rng(1).normal(size=(12, 12))
    basis, weight = _spectrum(12)
    mirrored = np.pad(x, ((0, 10), (0, 10)), mode="reflect")
    waves = (basis @ x @ basis.T) ** 2 * weight
    assert waves.sum() == pytest.approx((mirrored**2).mean(), rel=1e-5)
    ends = np.ones(12)
    ends[[0, -1]] = 0.5
    scaled = dctn(x, type=1) * np.outer(ends, ends) ** 0.5 / (2 * 11) ** 2 * 2
    np.testing.assert_allclose(waves, scaled**2, rtol=1e-3, atol=1e-7)


def test_a_blur_multiplies_each_wave() -> None:
    taps = gaussian_taps(9)
    for k in (0, 3, 15):
        wave = torch.cos(torch.pi * k * torch.arange(16, dtype=torch.float64) / 15).expand(1, 1, 16, 16)
        expected = wave * _response(taps, 16)[k] * _response(taps, 16)[0]
        torch.testing.assert_close(blur(wave, taps).double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [16, 21])
@pytest.mark.parametrize("block", [2, 8, 16])
def test_a_mosaic_is_told_from_all_else(size: int, block: int) -> None:
    traces = Traces(size, block=block)
    for pixels in [*faces(size), *noise(size)]:
        made = veiled(Mosaic(block), pixels)
        assert traces.faults(made) == []
        assert traces.faults(made[..., :1]) == []
        assert traces.faults(pixels) == [
            f"is no mosaic: its blocks of {block} pixels are not of one colour each"
        ]
        made[-1, -1, -1] ^= 1
        assert bool(traces.faults(made)) == (size % block != 1), "one bit of one pixel, which may be a block"


def test_nothing_is_asked_of_other_methods() -> None:
    for pixels in faces(20):
        assert Traces(20).faults(pixels) == []


def test_a_size_that_a_manifest_only_claims_takes_no_memory(tmp_path: Path) -> None:
    """A few bytes of text made the audit lay out 16384 × 32767 numbers."""
    method = {"method": "GaussianBlur", "kernel": 32767, "taps": 32767, "sigma": default_sigma(32767)}
    files = {"images/" + "ab" * 10 + "/" + "cd" * 10 + ".png": "ef" * 32}
    manifest = Manifest(method, 16384, 1, None, None, 1, 1, files=files)
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
    tracemalloc.start()
    found = audit(tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1 << 26
    assert found.unproven == ["that images of 16384 px are blurred"]
    with pytest.raises(ValueError, match="size: 2049 px; of more than 2048 no blur can be told"):
        Traces(2049, taps=(0.25, 0.5, 0.25))
