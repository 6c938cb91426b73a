"""Ed25519 signatures over a release's manifest (RFC 8032), keys as PEM."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from lightning_app.core.files import replacing
from lightning_app.core.key_file import LONGEST, is_guessable, refuse_readable, write_secret

# y of the points whose order divides 8, in every way that 32 bytes can say it (RFC 8032, section 5.1.7; libsodium's
# `ge25519_has_small_order` has the same list)
_SMALL_ORDER = {
    "00" * 32, "01" + "00" * 31, "ec" + "ff" * 30 + "7f", "ed" + "ff" * 30 + "7f", "ee" + "ff" * 30 + "7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
}  # fmt: skip

_HINT = (
    "make one with `python main.py desensitize --make-sign-key PATH` or `openssl genpkey -algorithm ed25519`"
)


def make_signing_key(path: str | Path) -> str:
    """Make a key pair: the private key at `path` (PEM, mode 0600), the public one at `path` + `.pub` (PEM).

    The public half is written first, so that whatever ends this in between, no private key stands there without it.
    Where a private key has lost its public half, that is written again.

    Args:
        path: of the private key; missing folders are made.

    Returns:
        The public key's fingerprint.

    Raises:
        FileExistsError: both files are there, or a public key whose private one is not; they stay as they are.
        OSError: the files cannot be written: then neither is there.
        PermissionError, ValueError: the private key is there alone, and cannot be used.
    """
    path = Path(path)
    public_path = path.with_name(path.name + ".pub")
    if public_path.exists() and path.exists():
        raise FileExistsError(f"--make-sign-key {path}: {path} is there already; name another file")
    if public_path.exists():
        raise FileExistsError(
            f"--make-sign-key {path}: {public_path} is there already, without its private key: name another file, or "
            "remove it if nobody uses it"
        )
    if path.exists():
        key = load_signing_key(path)
        _write_public(public_path, key)
        return fingerprint(key.public_key())
    key = Ed25519PrivateKey.generate()
    _write_public(public_path, key)
    try:
        write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    except BaseException:
        if not path.exists():
            public_path.unlink(missing_ok=True)
        raise
    return fingerprint(key.public_key())


def _write_public(path: Path, key: Ed25519PrivateKey) -> None:
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with replacing(path, sync=True) as file:
        file.write(public)


def load_signing_key(path: str | Path) -> Ed25519PrivateKey:
    """Read a private key.

    Args:
        path: an unencrypted PEM file.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: others may read it, or it is another user's.
        ValueError: it holds no Ed25519 private key, one under a password, or one that was never random.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"sign key {path}: no such file; {_HINT}")
    with path.open("rb") as file:
        content = file.read(LONGEST)
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError as error:  # cryptography's word for a key under a password
        raise ValueError(f"sign key {path}: is encrypted; give one without a password") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"sign key {path}: is no PEM private key; {_HINT}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"sign key {path}: is a {type(key).__name__}, not an Ed25519 key; {_HINT}")
    refuse_readable(path, "sign key")
    if is_guessable(key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())):
        raise ValueError(
            f"sign key {path}: its bytes are too much alike to be random, so that anybody may sign with it; {_HINT}"
        )
    return key


def load_public_key(path: str | Path) -> Ed25519PublicKey:
    """Read a public key.

    Args:
        path: a PEM file, such as `make_signing_key` writes with `.pub`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no Ed25519 public key, or one that anybody can sign for.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"public key {path}: no such file; ask the owner of the release for it")
    with path.open("rb") as file:
        content = file.read(LONGEST)
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"public key {path}: is no PEM public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"public key {path}: is a {type(key).__name__}, not an Ed25519 key")
    if _is_weak(key.public_bytes(Encoding.Raw, PublicFormat.Raw)):
        raise ValueError(
            f"public key {path}: is of no private key, anybody can sign for it; ask the owner for the right one"
        )
    return key


def _is_weak(point: bytes) -> bool:
    """Return whether a public key is one of the few points that signatures can be made up for."""
    return (point[:31] + bytes([point[31] & 0x7F])).hex() in _SMALL_ORDER


def fingerprint(key: Ed25519PublicKey) -> str:
    """Return the SHA-256 of the raw 32 bytes of a public key, 64 hexadecimal digits."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()


def sign(content: bytes, key: Ed25519PrivateKey) -> str:
    """Sign bytes.

    Returns:
        What `manifest.sig` holds: the 64 bytes of the signature as 128 hexadecimal digits and a newline.
    """
    return key.sign(content).hex() + "\n"


def signature_holds(content: bytes, signature: str, key: Ed25519PublicKey) -> bool:
    """Return whether a signature, as `sign` gives it, is of these bytes by this key; False where it is garbage."""
    try:
        key.verify(bytes.fromhex(signature.strip()), content)
    except (InvalidSignature, ValueError):
        return False
    return True
