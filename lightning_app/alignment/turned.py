"""Landmarks of images that lie on their side in their files: which pixels they speak of."""

from __future__ import annotations

import numpy as np

from lightning_app.alignment.similarity import Points, similarity, template

_MOST = 60.0  # degrees; a head that is tilted further lies


def upright_points(points: Points, orientation: int, width: int, height: int) -> Points:
    """Carry landmarks from the pixels as they are stored to those of the upright image.

    Args:
        points: `[5,2]` x, y in the stored pixels, in the template's order.
        orientation: EXIF's, 1 … 8.
        width: of the upright image in pixels.
        height: likewise.

    Returns:
        `[5,2]` in the upright image, in the template's order there: a mirrored image changes left and right.

    Source: CIPA DC-008 (Exif 2.32), tag Orientation.
    """
    x, y = points[:, 0], points[:, 1]
    right, bottom = width - 1 - x, height - 1 - y
    across, down = width - 1 - y, height - 1 - x  # where the axes are exchanged
    moved = {
        1: (x, y), 2: (right, y), 3: (right, bottom), 4: (x, bottom), 5: (y, x), 6: (across, x), 7: (across, down),
        8: (y, down),
    }[orientation]  # fmt: skip
    found = np.stack(moved, 1)
    return found[[1, 0, 2, 4, 3]] if orientation in (2, 4, 5, 7) else found


def seem_stored(points: Points, orientation: int, width: int, height: int) -> bool:
    """Return whether landmarks are in the pixels as they are stored: the face lies there, and stands carried over.

    Args:
        points: `[5,2]`, said to be of the upright image; not all in one place.
        orientation: EXIF's, 1 … 8.
        width: of the upright image in pixels.
        height: likewise.
    """
    if orientation == 1:
        return False
    carried = upright_points(points, orientation, width, height)
    return _tilt(points) > _MOST and _tilt(carried) < _tilt(points)


def _tilt(points: Points) -> float:
    """Return by how many degrees a face is turned in its plane, 0 … 180."""
    matrix = similarity(points, template())
    return abs(float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))))
