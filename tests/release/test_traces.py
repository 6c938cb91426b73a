"""A blur and a mosaic are told from clean faces without the raw image."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from datamodules import DrawnFaces
from lightning_app.desensitize import CentreBlur, Desensitizer, GaussianBlur, Mosaic
from lightning_app.desensitize.blur import blur, default_sigma, gaussian_taps
from lightning_app.desensitize.centre import centre_box
from lightning_app.release import Manifest
from lightning_app.release.audit.run import audit
from lightning_app.release.format.method import describe, weak_method
from lightning_app.release.format.traces import Traces, too_many, window_matrix
from tests.release.by_hand import SIZE, said, write_release

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def faces(size: int) -> list[Pixels]:
    reader = DrawnFaces(identities=2, images_per_identity=3, size=size, seed=4)
    return [np.ascontiguousarray(reader.read(i).transpose(1, 2, 0)) for i in range(len(reader))]


def noise(size: int) -> list[Pixels]:
    """The most that a blur can have to do: pixels of 0 and 255, at random and as a chessboard."""
    rng = np.random.default_rng(0)
    board = (np.indices((size, size)).sum(0) % 2)[..., None]
    return [(255 * x).astype(np.uint8) for x in (rng.integers(0, 2, (size, size, 3)), board.repeat(3, 2))]


def desensitized(desensitizer: Desensitizer, pixels: Pixels) -> Pixels:
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    return np.ascontiguousarray(
        (desensitizer.desensitize(image) * 255).round().to(torch.uint8)[0].permute(1, 2, 0).numpy()
    )


@pytest.mark.parametrize("size", [20, 33])
@pytest.mark.parametrize(
    ("kernel", "sigma"), [(9, None), (18, None), (3, None), (9, 0.5), (7, 19.0), (2, None)]
)
def test_a_blurred_image_passes_whatever_was_blurred(size: int, kernel: int, sigma: float | None) -> None:
    traces = Traces(size, taps=gaussian_taps(kernel, sigma))
    for pixels in [*faces(size), *noise(size)]:
        assert traces.faults(desensitized(GaussianBlur(kernel, sigma), pixels)) == []
        assert traces.faults(desensitized(GaussianBlur(kernel, sigma), pixels)[..., :1]) == []


@pytest.mark.parametrize("kernel", [9, 18])
def test_a_clean_image_does_not_and_nor_does_a_weaker_blur(kernel: int) -> None:
    traces = Traces(48, taps=gaussian_taps(kernel))
    for pixels in [*faces(48), *noise(48)]:
        assert "is not blurred as its method says" in traces.faults(pixels)[0]
        assert "is not blurred" in traces.faults(desensitized(GaussianBlur(3, 0.5), pixels))[0]
    one = faces(48)[0]
    partly = desensitized(GaussianBlur(kernel), one)
    partly[10:34, 10:34] = one[10:34, 10:34]
    assert traces.faults(partly), "a clean centre"


def textures(size: int) -> list[Pixels]:
    """Patterns of full contrast that no face has, and a few smooth ones."""
    row, column = np.indices((size, size))
    found: list[NDArray[Any]] = [255 * ((row + column) % period < period / 2) for period in (2, 3, 5)]
    found += [255 * (column % period < period / 2) for period in (2, 3, 4, 8)]
    found += [127.5 + 127.5 * np.cos(((row - size / 2) ** 2 + (column - size / 2) ** 2) * np.pi / size)]
    found += [np.minimum(column * 0.4, 255), np.minimum((row + column) * 0.1, 255), np.full((size, size), 77)]
    return [one.round().astype(np.uint8)[..., None].repeat(3, 2) for one in found]


METHODS = [(kernel, sigma, fraction) for kernel, sigma in ((9, None), (18, None), (6, None), (18, 6.0), (5, 19.0))
           for fraction in (None, 0.32, 0.5, 0.9)]  # fmt: skip


def looking(
    size: int, kernel: int, sigma: float | None, fraction: float | None
) -> tuple[Desensitizer, Traces]:
    """A method, and what is looked for of it."""
    if fraction is None:
        return GaussianBlur(kernel, sigma), Traces(size, taps=gaussian_taps(kernel, sigma))
    box = centre_box((size, size), fraction)[0]
    return CentreBlur(fraction, kernel, sigma), Traces(size, taps=gaussian_taps(kernel, sigma), box=box)


@pytest.mark.parametrize("size", [32, 61, 112])
def test_no_blur_that_we_make_is_called_sharp(size: int) -> None:
    for kernel, sigma, fraction in METHODS:
        desensitizer, traces = looking(size, kernel, sigma, fraction)
        assert traces.shows
        made = [
            desensitized(desensitizer, one) for one in [*faces(size)[:3], noise(size)[0], noise(size)[0] // 2]
        ]
        dark = desensitized(desensitizer, faces(size)[0] // 12)
        for one in [*made, dark]:
            assert traces.look(one) == ([], False), (kernel, sigma, fraction)
        for one in textures(size):  # they may be sharp, but then they are few
            assert traces.faults(desensitized(desensitizer, one)) == []


@pytest.mark.parametrize("size", [32, 61, 112])
def test_clean_faces_are_told_from_every_blur_that_is_released(size: int) -> None:
    for kernel, sigma, fraction in METHODS:
        _, traces = looking(size, kernel, sigma, fraction)
        sharp = [traces.look(one).sharp for one in [*faces(size), *noise(size)[:1]]]
        assert all(sharp), (kernel, sigma, fraction)


def test_soft_faces_are_told_where_one_alone_is_not() -> None:
    """Photographs are not so sharp as drawn faces."""
    soft = [desensitized(GaussianBlur(3, 0.7), one) for one in faces(64)]
    _, traces = looking(64, 9, None, None)
    assert [traces.look(one).sharp for one in soft] == [True] * len(soft)
    _, traces = looking(64, 9, None, 0.5)
    assert [traces.look(one).sharp for one in soft] == [True] * len(soft)


def test_one_odd_pattern_is_no_release_of_clean_faces() -> None:
    assert not too_many(0, 0)
    assert not too_many(0, 100)
    assert not too_many(2, 8)
    assert not too_many(9, 100)
    assert too_many(1, 1)
    assert too_many(3, 8)
    assert too_many(10, 100)


def test_a_centre_that_was_exchanged_afterwards_is_told() -> None:
    """The clean ring around it says what the blur must have mixed in."""
    desensitizer, traces = looking(48, 18, None, 0.5)
    one, other = faces(48)[0], faces(48)[5]
    box = centre_box((48, 48), 0.5)[0]
    made = desensitized(desensitizer, one)
    assert traces.look(made) == ([], False)
    made[box, box] = desensitized(desensitizer, other)[box, box]
    assert traces.look(made).sharp


@pytest.mark.parametrize("taps", [gaussian_taps(9), gaussian_taps(2), gaussian_taps(22)])
def test_the_matrix_of_a_blur(taps: list[float]) -> None:
    x = np.random.default_rng(1).normal(size=(12, 12))
    matrix = window_matrix(taps, 12)
    expected = blur(torch.from_numpy(x)[None, None], taps)[0, 0].numpy()
    np.testing.assert_allclose(matrix @ x @ matrix.T, expected, atol=1e-5)


class Clean(Desensitizer):
    """Nothing is done, whatever the manifest says."""

    def desensitize(self, image: torch.Tensor) -> torch.Tensor:
        return image


@pytest.mark.parametrize(
    "claimed",
    [GaussianBlur(9), GaussianBlur(18), GaussianBlur(6), GaussianBlur(5, 3.0), CentreBlur(), CentreBlur(0.5, 9),
     CentreBlur(0.9, 6), CentreBlur(0.35, 18), Mosaic(2)],
)  # fmt: skip
def test_a_release_of_clean_faces_under_any_name_fails_without_the_raw_set(
    claimed: Desensitizer, tmp_path: Path, drawn_root: Path
) -> None:
    write_release(tmp_path / "out", drawn_root, Clean(), method=claimed.describe())
    found = said(audit(tmp_path / "out"))
    assert found
    assert {"images", *(name for name in found if name.startswith("images/"))} >= found.keys()


@pytest.mark.parametrize(
    ("claimed", "words"),
    [
        (GaussianBlur(9, 0.5), "sigma 0.5 with 9 weights blurs by 0.46 pixels, less than 1.20"),
        (GaussianBlur(5), "sigma 1.1 with 5 weights blurs by 1.0"),
        (GaussianBlur(2, 19.0), "sigma 19 with 3 weights blurs by 0.82 pixels"),  # cut off
        (CentreBlur(0.5, 9, 1.0), "sigma 1 with 9 weights blurs by 1.00 pixels"),
        (CentreBlur(0.1, 9), "fraction 0.1 blurs"),
    ],
)
def test_what_does_next_to_nothing_is_neither_released_nor_passed(
    claimed: Desensitizer, words: str, tmp_path: Path, drawn_root: Path
) -> None:
    write_release(tmp_path / "out", drawn_root, claimed)  # honestly, but in vain
    assert any(words in what for what in said(audit(tmp_path / "out"))["manifest.json"])
    with pytest.raises(ValueError, match=f"{words}.*; of this no release is made"):
        describe(claimed, SIZE, None)


@pytest.mark.parametrize(
    ("claimed", "size", "good"),
    [(Mosaic(2), 224, True), (Mosaic(2), 226, False), (Mosaic(8), 896, True), (Mosaic(8), 1024, False),
     (GaussianBlur(9), 512, True), (GaussianBlur(9), 1024, False), (CentreBlur(), 1024, True),
     (CentreBlur(), 1200, False)],
)  # fmt: skip
def test_a_large_image_needs_more(claimed: Desensitizer, size: int, good: bool) -> None:
    faults = weak_method(claimed.describe(), size)
    assert [fault for fault in faults if "as good as clean" in fault] == faults
    assert bool(faults) != good


@pytest.mark.parametrize("size", [16, 21])
@pytest.mark.parametrize("block", [2, 8, 16])
def test_a_mosaic_is_told_from_all_else(size: int, block: int) -> None:
    traces = Traces(size, block=block)
    for pixels in [*faces(size), *noise(size)]:
        made = desensitized(Mosaic(block), pixels)
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


@pytest.mark.parametrize("size", [2049, 16384])
def test_a_size_that_a_manifest_only_claims_takes_no_memory(tmp_path: Path, size: int) -> None:
    """A few bytes of text made the audit lay out 16384 × 32767 numbers."""
    method = {"method": "GaussianBlur", "kernel": 4097, "taps": 4097, "sigma": default_sigma(4097)}
    files = {"images/" + "ab" * 10 + "/" + "cd" * 10 + ".png": "ef" * 32}
    manifest = Manifest(method, size, 1, None, None, 1, 1, files=files)
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
    tracemalloc.start()
    found = audit(tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1 << 22
    (what,) = said(found)["manifest.json"]
    assert what.startswith(f"size is {size}, not a number of pixels from 1 to 2048")
