"""Files that hold a secret: 64 random hexadecimal digits that their owner alone may read."""

from __future__ import annotations

import os
import re
import shlex
import stat
import tempfile
from pathlib import Path

from lightning_app.core.files import sync_folder

KEY_BYTES = 32
_DISTINCT = 16  # bytes of a secret that differ from each other, at least
LONGEST = 1 << 16  # bytes of a secret's file
_HEX_KEY = re.compile(rb"[0-9a-fA-F]{64}")


def load_key(path: str | Path) -> bytes:
    """Read a key file: 64 hexadecimal digits.

    Args:
        path: the file.

    Returns:
        32 bytes.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: others may read it, or it is another user's.
        ValueError: it holds something else, or a key that was never random; the content is not shown.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"key {path}: no such file; give the one that `desensitize` made")
    with path.open("rb") as file:
        text = file.read(LONGEST).strip()
    if not _HEX_KEY.fullmatch(text):
        raise ValueError(
            f"key {path}: holds {len(text)} bytes, not 64 hexadecimal digits; is it another file?"
        )
    refuse_readable(path, "key")
    key = bytes.fromhex(text.decode("ascii"))
    if is_guessable(key):
        raise ValueError(
            f"key {path}: its bytes are too much alike to be random, so that anybody may guess it; remove the file and "
            "make another, as `desensitize` or `openssl rand -hex 32` do"
        )
    return key


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


def is_guessable(secret: bytes) -> bool:
    """Return whether the bytes of a secret are too regular to be random, as zeros or a pattern are.

    Args:
        secret: 32 bytes. Of random ones fewer than 16 are distinct once in 10^14 times.
    """
    halves = range(1, len(secret) // 2 + 1)
    repeated = any((secret[:length] * len(secret)).startswith(secret) for length in halves)
    return len(set(secret)) < _DISTINCT or repeated


def refuse_readable(path: Path, what: str) -> None:
    """Refuse a secret that others than its owner may read or change.

    Args:
        path: the file.
        what: it is, for messages.

    Raises:
        PermissionError: others may, or it is another user's; says what to do.
    """
    if os.name != "posix":  # elsewhere these rights say nothing
        return
    facts = path.stat()
    if facts.st_mode & 0o077:
        raise PermissionError(
            f"{what} {path}: others may read it (mode {stat.S_IMODE(facts.st_mode):04o}); if nobody has, give "
            f"`chmod 600 {shlex.quote(str(path))}`, else make another"
        )
    if os.geteuid() not in (0, facts.st_uid):
        raise PermissionError(
            f"{what} {path}: is another user's (number {facts.st_uid}); make a copy of your own"
        )


def write_secret(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600, whole or not at all.

    Args:
        path: where to; missing folders are made.
        content: its bytes.

    Raises:
        FileExistsError: there is such a file; it stays as it is.
    """
    there = f"{path} is there already; a secret is never replaced: name another file"
    if path.exists() or path.is_symlink():
        raise FileExistsError(there)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, path)  # unlike a renaming it replaces nothing that came meanwhile
        except FileExistsError as error:
            raise FileExistsError(there) from error
        except OSError:  # a file system without hard links
            os.rename(part, path)
    finally:
        Path(part).unlink(missing_ok=True)
    sync_folder(path.parent)
