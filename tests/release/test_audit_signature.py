from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_app.release.audit import audit
from lightning_app.release.signing import fingerprint, sign
from tests.release.by_hand import relist, said, set_times, write_release


@pytest.fixture
def released(tmp_path: Path, drawn_root: Path) -> Path:
    """A good release, not signed."""
    write_release(tmp_path / "released", drawn_root)
    return tmp_path / "released"


def signed(root: Path, key: Ed25519PrivateKey) -> None:
    relist(root, signer=fingerprint(key.public_key()))
    (root / "manifest.sig").write_text(sign((root / "manifest.json").read_bytes(), key))
    set_times(root)


def test_a_signature_is_checked_with_the_key_and_noted_without(released: Path) -> None:
    key = Ed25519PrivateKey.generate()
    signed(released, key)
    with_key = audit(released, key.public_key())
    assert with_key.findings == []
    assert with_key.notes == []
    without = audit(released)
    assert without.findings == []
    assert without.notes == ["signature not checked: give the owner's --public-key"]


def test_a_signature_that_does_not_hold_is_found(released: Path) -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    assert said(audit(released, key.public_key())) == {
        "manifest.json": ["is not signed, but --public-key was given"]
    }
    signed(released, key)
    assert said(audit(released, other.public_key())) == {
        "manifest.json": ["names another signer than --public-key"]
    }
    (released / "manifest.sig").write_text(sign((released / "manifest.json").read_bytes(), other))
    set_times(released)
    assert list(said(audit(released, key.public_key()))) == ["manifest.sig"]
    signed(released, key)
    relist(released, refused={"truncated": 3})  # the forger leaves the old signature
    found = said(audit(released, key.public_key()))
    assert found["manifest.sig"][0].startswith("does not hold: manifest.json was changed")
    (released / "manifest.sig").write_bytes((released / "manifest.sig").read_bytes() + b"\n")
    set_times(released)
    assert said(audit(released))["manifest.sig"] == ["is not 128 hexadecimal digits and a newline"]
    (released / "manifest.sig").unlink()
    set_times(released)
    assert said(audit(released)) == {"manifest.sig": ["is missing"]}


def test_an_unlisted_signature_is_a_stray(released: Path) -> None:
    (released / "manifest.sig").write_text("ab" * 64 + "\n")
    set_times(released)
    assert said(audit(released)) == {"manifest.sig": ["is a file that the manifest does not list"]}
