"""Drawn faces that are drawn once in a test run: hundreds of tests train on the same few dozen."""

from __future__ import annotations

import pytest

from datamodules.drawing.reader import DrawnFaces
from datamodules.readers.base import Pixels

_LARGEST = 64  # side in pixels of the images that are kept
_MOST = 4000  # of them: 48 MB
_kept: dict[tuple[object, ...], Pixels] = {}
_draw = DrawnFaces.read


def remember_drawn_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `DrawnFaces` draw each image once; that it is a function of the key alone is shown in test_drawn.py."""
    monkeypatch.setattr(DrawnFaces, "read", drawn_once)


def drawn_once(self: DrawnFaces, index: int) -> Pixels:
    """Return what `DrawnFaces.read` does."""
    if not 0 <= index < len(self) or self.size > _LARGEST:
        return _draw(self, index)
    person, image = divmod(index, self.images_per_identity)
    key = (self.seed, self.first_identity + person, image, self.size, self.nuisance)
    if key not in _kept:
        if len(_kept) >= _MOST:
            _kept.clear()
        _kept[key] = _draw(self, index)
    own: Pixels = _kept[key].copy()
    return own
