"""Releases that many tests begin from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.release import tensor_release
from tests.release.by_hand import write_release


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, drawn_root: Path) -> Path:
    """A good release of 6 drawn people with 8 images each, under a mask; nobody changes it."""
    root = tmp_path_factory.mktemp("made") / "released"
    write_release(root, drawn_root)
    return root


@pytest.fixture
def released(made: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(made, tmp_path / "released"))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, drawn_root: Path) -> Path:
    """Releases of their representations: `plain`, `half` (float16), `mixed`; nobody changes them."""
    return tensor_release.three(tmp_path_factory.mktemp("tensors"), drawn_root)


@pytest.fixture
def spoilt(home: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies one of these, by its name, to spoil."""
    return lambda name: Path(shutil.copytree(home / name, tmp_path / name))
