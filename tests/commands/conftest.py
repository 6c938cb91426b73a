"""Releases that the tests of `audit` begin from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lightning_app.core.key_file import write_secret
from lightning_app.desensitize import Mosaic
from tests.release.by_hand import KEY, blur, write_release


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, drawn_root: Path) -> Path:
    """Releases of the drawn people, under a mask, blurred and as mosaic, and the key; nobody changes them."""
    home = tmp_path_factory.mktemp("made")
    write_release(home / "masked", drawn_root)
    write_release(home / "blurred", drawn_root, blur())
    write_release(home / "mosaic", drawn_root, Mosaic(8))
    write_secret(home / "key", KEY.hex().encode() + b"\n")
    return home


@pytest.fixture
def spoilt(made: Path, tmp_path: Path) -> Path:
    """A copy of the masked release to spoil."""
    return Path(shutil.copytree(made / "masked", tmp_path / "masked"))
