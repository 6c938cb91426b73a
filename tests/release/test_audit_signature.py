from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from lightning_app.core.key_file import write_secret
from lightning_app.release.audit.run import audit
from lightning_app.release.format import signing
from lightning_app.release.format.signing import (
    _SMALL_ORDER,
    fingerprint,
    load_public_key,
    load_signing_key,
    make_signing_key,
    sign,
)
from tests.release.by_hand import relist, said, set_times, signed, write_release


@pytest.fixture
def released(tmp_path: Path, drawn_root: Path) -> Path:
    """A good release, not signed."""
    write_release(tmp_path / "released", drawn_root)
    return tmp_path / "released"


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


def pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.skipif(os.name != "posix", reason="rights are POSIX's")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o606])
def test_a_signing_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "sign.pem"
    path.write_bytes(pem(Ed25519PrivateKey.generate()))
    path.chmod(mode)
    with pytest.raises(
        PermissionError, match=rf"sign key .*: others may read it \(mode {mode:04o}\); .*chmod 600 "
    ):
        load_signing_key(path)
    path.chmod(0o400)
    load_signing_key(path)


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, b"ab" * 16])
def test_a_signing_key_that_was_never_random_is_refused(tmp_path: Path, secret: bytes) -> None:
    write_secret(tmp_path / "sign.pem", pem(Ed25519PrivateKey.from_private_bytes(secret)))
    with pytest.raises(ValueError, match=r"sign key .*sign\.pem: its bytes are too much alike to be random"):
        load_signing_key(tmp_path / "sign.pem")


P = 2**255 - 19


def eightfold(y: int) -> tuple[int, int] | None:
    """Eight times a point of the curve, by RFC 8032's formulas; None where no point has this y."""
    d = -121665 * pow(121666, -1, P) % P
    square = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if x * x % P != square:
        return None
    for _ in range(3):
        product = d * x * x * y * y
        x, y = 2 * x * y * pow(1 + product, -1, P) % P, (y * y + x * x) * pow(1 - product, -1, P) % P
    return x, y


def test_public_keys_that_anybody_can_sign_for_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weak.pub"
    for text in sorted(_SMALL_ORDER):
        assert eightfold(int.from_bytes(bytes.fromhex(text), "little") % P) == (0, 1), text
        for sign_bit in (0, 0x80):
            raw = bytearray.fromhex(text)
            raw[31] |= sign_bit
            weak = Ed25519PublicKey.from_public_bytes(bytes(raw))
            path.write_bytes(weak.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
            with pytest.raises(ValueError, match="is of no private key, anybody can sign for it"):
                load_public_key(path)
    assert len(_SMALL_ORDER) == 7
    good = Ed25519PrivateKey.generate().public_key()
    path.write_bytes(good.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert fingerprint(load_public_key(path)) == fingerprint(good)


def test_a_signing_key_is_never_there_without_its_public_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, public = tmp_path / "deep" / "sign.pem", tmp_path / "deep" / "sign.pem.pub"

    def full(at: Path, content: bytes) -> None:
        assert load_public_key(public), "a kill here leaves the public half alone, which is no harm"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(signing, "write_secret", full)
        with pytest.raises(OSError, match="No space left"):
            make_signing_key(path)
    assert list(path.parent.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: full(path, b""))
        with pytest.raises(FileNotFoundError, match="no such file"):  # the first half is not there yet
            make_signing_key(path)
    assert list(path.parent.iterdir()) == []
    made = make_signing_key(path)
    assert made == fingerprint(load_public_key(public)) == fingerprint(load_signing_key(path).public_key())
    with pytest.raises(FileExistsError, match=r"sign\.pem is there already; name another file"):
        make_signing_key(path)


def test_halves_of_a_key_pair(tmp_path: Path) -> None:
    path, public = tmp_path / "sign.pem", tmp_path / "sign.pem.pub"
    made = make_signing_key(path)
    secret, shown = path.read_bytes(), public.read_bytes()
    public.unlink()  # as a kill left it until now
    assert make_signing_key(path) == made
    assert (path.read_bytes(), public.read_bytes()) == (secret, shown)
    path.unlink()
    with pytest.raises(FileExistsError, match=r"sign\.pem\.pub is there already, without its private key"):
        make_signing_key(path)
    assert public.read_bytes() == shown
    public.unlink()
    path.write_bytes(b"words")
    with pytest.raises(ValueError, match="is no PEM private key"):
        make_signing_key(path)
    assert [file.name for file in tmp_path.iterdir()] == ["sign.pem"]
