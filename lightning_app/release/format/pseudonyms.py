"""Names that say nothing: keyed pseudonyms for identities and images."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

from lightning_app.core.key_file import KEY_BYTES, is_guessable

DIGITS = 20  # hexadecimal; 80 bits: among ten million images two collide with a chance below 1e-10


class Pseudonyms:
    """Pseudonyms by HMAC-SHA256: with the key a function of the name, without it noise.

    The same key gives the same pseudonyms in every release, so two releases of one set can be joined; take
    another key where they must not be. Names are taken as bytes: `A.jpg` and `a.jpg` are two images.

    Args:
        key: 32 bytes that only the owner has.

    Raises:
        ValueError: on a key of another length, or one that was never random, such as zeros.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"key: {len(key)} bytes; {KEY_BYTES} are needed")
        if is_guessable(key):
            raise ValueError("key: its bytes are too much alike to be random; make one with os.urandom")
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
