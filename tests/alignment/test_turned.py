"""Landmarks of images that EXIF turns: of the upright pixels, or of those in the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from lightning_app.alignment.pixels import read_oriented
from lightning_app.alignment.place import FaceFile, LandmarkPixels, Placer, Rules
from lightning_app.alignment.similarity import template
from lightning_app.alignment.turned import seem_stored, upright_points

POINTS = template(112) * 0.8 + np.array([30.0, 12.0])  # in an upright image of 160 by 120 pixels
WIDTH, HEIGHT = 160, 120
TURNED = range(2, 9)


def _upright() -> Image.Image:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    return small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def _stored(path: Path, orientation: int) -> None:
    """Write the image as a camera held otherwise does: with its orientation it comes upright."""
    undo = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    image, exif = _upright(), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    (image if undo is None else image.transpose(undo)).save(path, "PNG", exif=exif)


def _points_in(path: Path) -> tuple[np.ndarray, int]:
    """Mark the five points in the upright image, one by one, and find them again in the stored pixels."""
    with Image.open(path) as opened:
        orientation = opened.getexif()[ExifTags.Base.Orientation]
        size = opened.size
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    planes = []
    for plane in (x, y):
        image = Image.fromarray(plane.astype(np.uint8))
        image.getexif()[ExifTags.Base.Orientation] = orientation
        planes.append(np.asarray(ImageOps.exif_transpose(image)))
    at = POINTS.round().astype(int)
    found = np.array([[plane[v, u] for plane in planes] for u, v in at], float)
    return (found[[1, 0, 2, 4, 3]] if orientation in (2, 4, 5, 7) else found), orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_points_are_carried_as_the_pixels_are(orientation: int, tmp_path: Path) -> None:
    _stored(tmp_path / "a.png", orientation)
    pixels, found = read_oriented(str(tmp_path / "a.png"))
    assert found == orientation
    np.testing.assert_array_equal(pixels, np.asarray(_upright()))
    stored, _ = _points_in(tmp_path / "a.png")
    np.testing.assert_allclose(upright_points(stored, orientation, WIDTH, HEIGHT), POINTS.round(), atol=1e-9)


def _placed(tmp_path: Path, orientation: int, points: np.ndarray, pixels: LandmarkPixels):  # type: ignore[no-untyped-def]
    (tmp_path / "in").mkdir(exist_ok=True)
    _stored(tmp_path / "in" / "a.png", orientation)
    rules = Rules(str(tmp_path / "in"), str(tmp_path / "out"), 112, None, 10, 0.35, 0.5, pixels)
    outcome = Placer(rules, False)(FaceFile("a.png", "a.png", "", points))
    made = tmp_path / "out" / "a.png"
    return outcome.reason, np.asarray(Image.open(made)).astype(int) if made.exists() else None


@pytest.mark.parametrize("orientation", TURNED)
def test_stored_landmarks_align_as_upright_ones(orientation: int, tmp_path: Path) -> None:
    _, wanted = _placed(tmp_path, 1, POINTS.round(), "upright")
    reason, found = _placed(tmp_path, orientation, POINTS.round(), "upright")
    assert reason is None
    np.testing.assert_array_equal(found, wanted)
    stored, _ = _points_in(tmp_path / "in" / "a.png")
    reason, found = _placed(tmp_path, orientation, stored, "stored")
    assert reason is None
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("orientation", [3, 4, 5, 6, 7, 8])
def test_stored_landmarks_are_not_taken_for_upright_ones(orientation: int, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    _stored(tmp_path / "in" / "a.png", orientation)
    stored, _ = _points_in(tmp_path / "in" / "a.png")
    assert seem_stored(stored, orientation, WIDTH, HEIGHT)
    reason, found = _placed(tmp_path, orientation, stored, "upright")
    assert reason == "landmarks of the stored pixels"
    assert found is None


def test_a_face_that_lies_in_an_upright_image_is_aligned() -> None:
    lying = upright_points(POINTS, 6, HEIGHT, WIDTH)
    assert not seem_stored(lying, 1, WIDTH, HEIGHT)
