"""An owner's key draws the same again, tells nobody what it is, and travels in no pickle."""

from __future__ import annotations

import copy
import logging
import os
import pickle
from pathlib import Path

import pytest

from lightning_app.core import owner_key
from lightning_app.core.key_file import KEY_BYTES, make_key
from lightning_app.core.owner_key import OwnerKey

SECRET = bytes(range(KEY_BYTES))


def test_a_key_draws_the_same_again_and_another_draws_otherwise() -> None:
    ours, again, other = OwnerKey(SECRET), OwnerKey(SECRET), OwnerKey(bytes(range(1, KEY_BYTES + 1)))
    assert ours.integer("signs", 3) == again.integer("signs", 3)
    drawn = {
        key.integer(*names) for key in (ours, other) for names in (("signs", 3), ("signs", 4), ("sig", "ns3"))
    }
    assert len(drawn) == 6
    assert all(0 <= value < 2**63 for value in drawn)
    assert ours == again != other
    assert ours.hash != other.hash


def test_neither_hash_nor_repr_nor_a_pickle_holds_the_secret() -> None:
    key = OwnerKey(SECRET)
    assert SECRET.hex() not in repr(key) + key.hash
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(key)
    assert copy.deepcopy(key) is key


def test_a_file_is_read_and_must_be_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "owner.key"
    secret = make_key(path)
    key = OwnerKey.of(path)
    assert key == OwnerKey(secret)
    assert key.from_file
    path.chmod(0o644)
    if os.name == "posix":
        with pytest.raises(PermissionError, match="others may read it"):
            OwnerKey.of(path)
    with pytest.raises(
        FileNotFoundError, match=r"no such file; `\(umask 077; mkdir -p .*/keys; openssl rand"
    ):
        OwnerKey.of(tmp_path / "keys" / "gone.key")
    with pytest.raises(FileNotFoundError, match="no such file"):
        OwnerKey.of(tmp_path / "none.key")
    with pytest.raises(FileNotFoundError, match="is a folder; give the file in it"):
        OwnerKey.of(tmp_path)


def test_without_a_file_the_process_has_one_random_key_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    owner_key._random_secret.cache_clear()
    with caplog.at_level(logging.WARNING, "faceveil"):
        first, second = OwnerKey.of(None), OwnerKey.of(None)
    assert first == second
    assert not first.from_file
    assert caplog.text.count("No owner's key is given") == 1
    owner_key._random_secret.cache_clear()
    assert OwnerKey.of(None) != first


@pytest.mark.parametrize("secret", [b"short", bytes(KEY_BYTES), b"ab" * 16])
def test_a_secret_that_was_never_random_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match="give 32 random bytes"):
        OwnerKey(secret)
