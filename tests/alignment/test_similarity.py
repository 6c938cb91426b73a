from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.transform import SimilarityTransform, warp

from lightning_app.alignment import TEMPLATE, align_face, misfit, similarity, template
from lightning_app.alignment.similarity import is_flat

Array = NDArray[np.float64]


def turned(points: Array, degrees: float, scale: float, shift: tuple[float, float]) -> Array:
    angle = np.radians(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(scale * points @ rotation.T + shift)


def test_a_case_by_hand() -> None:
    # a quarter turn, twice the size, moved by (3, -1): (x, y) → (-2y + 3, 2x - 1)
    source = np.array([[0.0, 0], [1, 0], [0, 1], [2, 3]])
    target = np.array([[3.0, -1], [3, 1], [1, -1], [-3, 3]])
    np.testing.assert_allclose(similarity(source, target), [[0, -2, 3], [2, 0, -1]], atol=1e-12)


def test_least_squares_by_hand() -> None:
    # two points 2 apart onto two 4 apart, the third point pulls by the same amount to both sides: it moves nothing
    source = np.array([[-1.0, 0], [1, 0], [0, 0]])
    target = np.array([[-2.0, 0], [2, 0], [0, 3]])
    # means (0,0) and (0,1); covariance Σyx'/3 = diag(4,0)/3, variance 2/3: scale 2, no turn, shift (0,1)
    np.testing.assert_allclose(similarity(source, target), [[2, 0, 0], [0, 2, 1]], atol=1e-12)


def test_equals_scikit_image_on_random_and_on_mirrored_points() -> None:
    rng = np.random.default_rng(0)
    for trial in range(200):
        source = rng.normal(size=(5, 2)) * rng.uniform(1, 300) + rng.uniform(-500, 500, 2)
        target = TEMPLATE + rng.normal(size=(5, 2)) * 4
        if trial % 2:
            source = turned(TEMPLATE, rng.uniform(-180, 180), rng.uniform(0.1, 20), (5, 9))
            source += rng.normal(size=(5, 2))
        if trial % 4 == 3:
            source = source * (-1, 1)  # the best orthogonal transform would be a reflection
        ours = similarity(source, target)
        theirs = SimilarityTransform.from_estimate(source, target).params
        np.testing.assert_allclose(ours, theirs[:2], rtol=1e-8, atol=1e-8)
        assert np.linalg.det(ours[:, :2]) > 0


def test_the_template_scales_as_insightface_has_it() -> None:
    assert template()[0].tolist() == [38.2946, 51.6963]
    np.testing.assert_allclose(template(224), 2 * TEMPLATE)
    assert misfit(turned(TEMPLATE, 130, 3.7, (900, -20))) == pytest.approx(0, abs=1e-12)
    # eyes changed over, and the mouth's corners too: a reflection would mend the latter
    assert 0.35 < misfit(TEMPLATE[[1, 0, 2, 3, 4]]) < 0.7
    assert 0.35 < misfit(TEMPLATE[[1, 0, 2, 4, 3]]) < 0.7


@pytest.mark.parametrize("points", [np.full((5, 2), 7.0), np.full((5, 2), np.nan)])
def test_no_transform_from_points_that_say_nothing(points: Array) -> None:
    with pytest.raises(ValueError, match=r"coincide|finite"):
        similarity(points, TEMPLATE)


def test_flat_points() -> None:
    line = np.stack([np.arange(5.0), 3 * np.arange(5.0)], 1)
    assert is_flat(line)
    assert is_flat(np.full((5, 2), 3.0))
    assert not is_flat(TEMPLATE)


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1), (25, 1.4), (-70, 0.6), (10, 2.7), (160, 9.3)])
def test_landmarks_land_on_the_template(degrees: float, scale: float) -> None:
    """Dots drawn at the landmarks; their centres of mass are measured in the aligned picture."""
    points = turned(TEMPLATE - 56, degrees, scale, (600.3, 590.8))
    y, x = np.mgrid[:1180, :1200]
    picture = np.zeros((1180, 1200))
    for px, py in points:
        picture += 255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * (2.5 * scale) ** 2))
    aligned = align_face(np.clip(picture, 0, 255).astype(np.uint8), points, 112).astype(np.float64)
    ay, ax = np.mgrid[:112, :112]
    for tx, ty in TEMPLATE:
        near = aligned * (np.hypot(ax - tx, ay - ty) < 7)
        centre = ((near * ax).sum() / near.sum(), (near * ay).sum() / near.sum())
        assert np.hypot(centre[0] - tx, centre[1] - ty) < 0.1, (centre, tx, ty)


def test_the_warp_equals_scikit_images() -> None:
    rng = np.random.default_rng(3)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (200, 240, 3)).astype(np.uint8), (0, 0), 4)
    picture = np.clip((np.asarray(picture).astype(float) - 127.5) * 8 + 127.5, 0, 255).astype(np.uint8)
    points = turned(TEMPLATE - 56, 20, 1.3, (150.0, 120.0))  # part of the face lies outside
    ours = align_face(np.asarray(picture, np.uint8), points, 128)
    matrix = SimilarityTransform.from_estimate(points, template(128))
    theirs = warp(  # type: ignore[no-untyped-call]
        picture, matrix.inverse, output_shape=(128, 128), order=1, preserve_range=True, cval=0
    )
    # OpenCV interpolates at 1/32 of a pixel
    assert np.abs(ours.astype(float) - theirs)[2:-2, 2:-2].mean() < 0.5
    flat = np.full((100, 100), 200, np.uint8)
    off = align_face(flat, TEMPLATE - 40, 112)
    assert off[0, 0] == 0, "what lies outside is black"
    assert off[60, 60] == 200


def test_detail_does_not_turn_into_noise() -> None:
    board = ((np.indices((900, 900)) // 1).sum(0) % 2 * 255).astype(np.uint8)
    small = align_face(board, TEMPLATE * 6.3 + 3, 112)[8:-8, 8:-8].astype(float)
    assert abs(small.mean() - 127.5) < 3
    assert small.std() < 12, "a plain bilinear warp has 60 and more here"
