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

from lightning_app.files import write_atomically
from lightning_app.release.pseudonyms import write_secret

_HINT = (
    "make one with `python main.py desensitize --make-sign-key PATH` or `openssl genpkey -algorithm ed25519`"
)


def make_signing_key(path: str | Path) -> str:
    """Make a key pair: the private key at `path` (PEM, mode 0600), the public one at `path` + `.pub` (PEM).

    Args:
        path: of the private key; missing folders are made.

    Returns:
        The public key's fingerprint.

    Raises:
        FileExistsError: there is such a file.
    """
    path = Path(path)
    public_path = path.with_name(path.name + ".pub")
    for file in (path, public_path):
        if file.exists():
            raise FileExistsError(f"--make-sign-key {path}: {file} is there already; name another file")
    key = Ed25519PrivateKey.generate()
    write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    write_atomically(public_path, public)
    return fingerprint(key.public_key())


def load_signing_key(path: str | Path) -> Ed25519PrivateKey:
    """Read a private key.

    Args:
        path: an unencrypted PEM file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no Ed25519 private key, or one under a password.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"sign key {path}: no such file; {_HINT}")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except TypeError as error:  # cryptography's word for a key under a password
        raise ValueError(f"sign key {path}: is encrypted; give one without a password") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"sign key {path}: is no PEM private key; {_HINT}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"sign key {path}: is a {type(key).__name__}, not an Ed25519 key; {_HINT}")
    return key


def load_public_key(path: str | Path) -> Ed25519PublicKey:
    """Read a public key.

    Args:
        path: a PEM file, such as `make_signing_key` writes with `.pub`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no Ed25519 public key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"public key {path}: no such file; ask the owner of the release for it")
    try:
        key = load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"public key {path}: is no PEM public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"public key {path}: is a {type(key).__name__}, not an Ed25519 key")
    return key


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
    """Tell whether a signature, as `sign` gives it, is of these bytes by this key; False where it is garbage."""
    try:
        key.verify(bytes.fromhex(signature.strip()), content)
    except (InvalidSignature, ValueError):
        return False
    return True
