"""What many tests begin from: releases, and what leaks are planted in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from datamodules import DrawnFaces
from tests.release import tensor_release
from tests.release.by_hand import KEY, write_release


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


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of three drawn people with two images each, nobody changes it: what releases that leak are made of."""
    root = tmp_path_factory.mktemp("faces") / "raw"
    DrawnFaces(identities=3, images_per_identity=2, size=48, seed=2).write(root, count_per_class=1, folds=2)
    return root


@pytest.fixture(scope="session")
def owner(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ed25519PrivateKey, Path, Path]:
    """A signing key, its public half, and the key of the pseudonyms."""
    home, key = tmp_path_factory.mktemp("owner"), Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (home / "sign.pub").write_bytes(public)
    (home / "key").write_text(KEY.hex() + "\n")
    (home / "key").chmod(0o600)
    return key, home / "sign.pub", home / "key"


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show no tables: they take a third of the time here, and tests/commands/test_audit.py reads them."""
    monkeypatch.setattr("lightning_app.studies.audit._print_verdict", lambda *shown: None)
