"""Names that say nothing: keyed pseudonyms for identities and images, and the key's file."""

from __future__ import annotations

import hmac
import os
import re
import tempfile
from pathlib import Path

KEY_BYTES = 32
DIGITS = 20  # hexadecimal; 80 bits: among ten million images two collide with a chance below 1e-10
_HEX_KEY = re.compile(rb"[0-9a-fA-F]{64}")


class Pseudonyms:
    """Pseudonyms by HMAC-SHA256: with the key a function of the name, without it noise.

    The same key gives the same pseudonyms in every release, so two releases of one set can be joined; take
    another key where they must not be. Names are taken as bytes: `A.jpg` and `a.jpg` are two images.

    Args:
        key: 32 bytes that only the owner has.

    Raises:
        ValueError: on a key of another length.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"key: {len(key)} bytes; {KEY_BYTES} are needed")
        self._key = key

    def identity(self, name: str) -> str:
        """Return the pseudonym of an identity, 20 hexadecimal digits.

        Args:
            name: of the identity, as the reader gives it.
        """
        return self._digest(b"identity", name)

    def image(self, identity: str, name: str) -> str:
        """Return the pseudonym of an image, 20 hexadecimal digits.

        Args:
            identity: name of its identity.
            name: its own, as `FaceReader.stable_name` gives it.
        """
        return self._digest(b"image", identity, name)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell two keys apart and give neither away."""
        return self._digest(b"fingerprint")[:16]

    def _digest(self, what: bytes, *names: str) -> str:
        # each part with its length before it, so that no two lists of names run together to the same bytes
        parts = [what, *(os.fsencode(name) for name in names)]
        message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hmac.digest(self._key, message, "sha256").hex()[:DIGITS]


def load_key(path: str | Path) -> bytes:
    """Read a key file: 64 hexadecimal digits.

    Args:
        path: the file.

    Returns:
        32 bytes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else; the content is not shown.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"key {path}: no such file; give the one that `desensitize` made")
    text = path.read_bytes().strip()
    if not _HEX_KEY.fullmatch(text):
        raise ValueError(
            f"key {path}: holds {len(text)} bytes, not 64 hexadecimal digits; is it another file?"
        )
    return bytes.fromhex(text.decode("ascii"))


def make_key(path: str | Path) -> bytes:
    """Make a random key and write it to a new file that only its owner may read (mode 0600).

    Args:
        path: the file; missing folders are made.

    Returns:
        32 bytes.

    Raises:
        FileExistsError: there is such a file.
    """
    key = os.urandom(KEY_BYTES)
    write_secret(Path(path), key.hex().encode() + b"\n")
    return key


def load_or_make_key(path: str | Path) -> bytes:
    """Read a key file, or make it on first use.

    Args:
        path: the file.

    Raises:
        ValueError: it holds something else than a key.
    """
    return load_key(path) if Path(path).exists() else make_key(path)


def write_secret(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600, whole or not at all.

    Args:
        path: where to; missing folders are made.
        content: its bytes.

    Raises:
        FileExistsError: there is such a file; it stays as it is.
    """
    if path.exists():
        raise FileExistsError(f"{path} is there already; a secret is never replaced: name another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def refuse_inside(path: str | Path, released: str | Path, argument: str) -> None:
    """Refuse a secret that would lie in the folder that leaves the house.

    Args:
        path: of the secret.
        released: folder of the release.
        argument: that named the path, for the message.

    Raises:
        ValueError: it lies there.
    """
    inner, outer = Path(path).resolve(), Path(released).resolve()
    if inner == outer or outer in inner.parents:
        raise ValueError(f"{argument} {path}: lies in the released folder {released}; keep it elsewhere")
