"""Fixtures of the readers' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.datamodules.face_files import make_tree


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep scans out of the user's own cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "faceveil"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three people with 3, 1 and 4 grey JPEG images."""
    return make_tree(tmp_path / "faces", {"ann": 3, "bob": 1, "cyd": 4})
