"""The owner's key: what shuffles, signs, mixes and noise are drawn from, so that nobody else can draw them again."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import shlex
from functools import cache
from pathlib import Path

from typing_extensions import Self

from lightning_app.core.key_file import KEY_BYTES, is_guessable, load_key

log = logging.getLogger("faceveil")


class OwnerKey:
    """A secret from which an owner's draws are made; only its hash is ever written down.

    The key itself is in no `repr`, no config, no checkpoint and no pickle: a process that is handed it elsewhere reads
    the file.

    Args:
        secret: 32 random bytes.
        path: the file that it came from; None for a random key of this process.

    Raises:
        ValueError: a secret of another length, or one that was never random.
    """

    def __init__(self, secret: bytes, path: Path | None = None) -> None:
        if len(secret) != KEY_BYTES or is_guessable(secret):
            raise ValueError(f"owner key: give {KEY_BYTES} random bytes, such as os.urandom makes")
        self._secret, self.path = secret, path

    @classmethod
    def of(cls, path: str | Path | None) -> Self:
        """Read a key file; without one return the random key of this process, and say so once.

        Args:
            path: the file, 64 hexadecimal digits that its owner alone may read (mode 0600); None for a random key.

        Raises:
            FileNotFoundError, PermissionError, ValueError: see `load_key`.
        """
        if path is None:
            return cls(_random_secret())
        if Path(path).is_dir():
            raise FileNotFoundError(f"owner's key {path}: is a folder; give the file in it")
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"owner's key {path}: no such file; `(umask 077; {_folder(path)}openssl rand -hex 32 > "
                f"{shlex.quote(str(path))})` makes one, or leave `key` out for a random one that ends with the process"
            )
        return cls(load_key(path), Path(path))

    @property
    def from_file(self) -> bool:
        """Whether it can be used again: it came from a file."""
        return self.path is not None

    @property
    def hash(self) -> str:
        """Return what tells two keys apart without giving either away: 64 hexadecimal digits."""
        return hashlib.sha256(b"FaceVeil owner key" + self._secret).hexdigest()

    def integer(self, *names: str | int) -> int:
        """Draw a 63-bit integer for a purpose: a key for `lightning_app.core.draws`, a seed for a generator.

        Args:
            names: what it is for, such as ("InstaHide", "signs").

        Returns:
            An integer in [0, 2⁶³), by HMAC-SHA256: without the key it tells nothing of any other.
        """
        parts = [str(name).encode() for name in names]
        message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return int.from_bytes(hmac.digest(self._secret, message, "sha256")[:8], "big") >> 1

    def __eq__(self, other: object) -> bool:
        """Return whether two keys draw the same."""
        return isinstance(other, OwnerKey) and hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        """Hash by the key's own hash."""
        return hash(self.hash)

    def __repr__(self) -> str:
        """Show the first digits of the hash, never the key."""
        return f"OwnerKey({self.hash[:12]}…)"

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Return itself: a copy of a module draws what the module does."""
        return self

    def __reduce__(self) -> tuple[object, ...]:
        """Refuse to be pickled: the secret would travel.

        Raises:
            TypeError: always.
        """
        raise TypeError("an owner's key is never pickled: hand on the path of its file")


def is_of_this_process(key_hash: str) -> bool:
    """Return whether a hash is of the random key of this process, which no other process can draw from.

    Args:
        key_hash: see `OwnerKey.hash`.
    """
    return _random_secret.cache_info().currsize > 0 and OwnerKey(_random_secret()).hash == key_hash


@cache
def _random_secret() -> bytes:
    secret = os.urandom(KEY_BYTES)
    log.warning(
        "No owner's key is given: what protects is drawn from a random one that ends with this process (%s…). Give "
        "`key: FILE` where it shall be drawn again; `openssl rand -hex 32` makes one (mode 0600).",
        OwnerKey(secret).hash[:12],
    )
    return secret


def _folder(path: str | Path) -> str:
    """Return the words that make a key's folder where it is not there yet."""
    folder = Path(path).parent
    return "" if folder.is_dir() else f"mkdir -p {shlex.quote(str(folder))}; "
