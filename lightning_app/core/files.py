"""Files that are there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

_BLOCK = 2**20  # bytes hashed at a time
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has neither of them
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # for whoever reads a pipe
_OPENED = ("/dev/std", "/dev/fd/", "/proc/")  # names of what a process has open, a file it may be
_DEVICES = ("/dev/", "/proc/")
PRIVATE = 0o600  # mode of what names or shows people: its owner alone may read it, whatever the umask


def given_folder(path: str | os.PathLike[str], name: str = "root") -> Path:
    """Return the folder that an argument names; Python takes an empty name for the working directory.

    Args:
        path: as it was given.
        name: of the argument.

    Raises:
        ValueError: it is empty.
    """
    if not os.fspath(path):
        raise ValueError(f"{name}='': give a folder; . is the working directory")
    return Path(path)


def write_atomically(path: str | Path, content: bytes | str, *, mode: int | None = None) -> Path:
    """Write a file so that a reader, or a crash, never meets half of it.

    The content goes to a temporary file in the same folder, which then takes the name (`os.replace`).

    Args:
        path: where to; missing folders are made.
        content: bytes, or text written as UTF-8.
        mode: rights of the file, which it has from the beginning; by default those that the umask gives.

    Returns:
        The path.

    Raises:
        OSError: the folder cannot be written; an older file stays as it was.
    """
    path = Path(path)
    with replacing(path, mode=mode) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return path


@contextmanager
def replacing(path: str | Path, *, sync: bool = False, mode: int | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file in the folder of `path`, which takes that name once the block ends well.

    What is no file (a device, a pipe, `/dev/stdout`) is written as it stands: a file in its place would be missed.

    Args:
        path: where to; missing folders are made.
        sync: wait until file and name are on the disk (fsync), so that a power cut loses neither.
        mode: rights of the file, which it has from the beginning; by default those that the umask gives.

    Raises:
        OSError: the folder cannot be written; an older file stays as it was, the temporary one goes.
    """
    path = Path(path)
    if _is_device(path):
        with path.open("wb") as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        publish(temporary, path, mode)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def _is_device(path: Path) -> bool:
    """Return whether a path leads to something that is written to, not replaced."""
    try:
        kind = path.stat().st_mode
    except OSError:
        return False  # not there yet
    where = str(path.absolute())
    if path.is_symlink() and not where.startswith(_DEVICES):
        return False  # whoever made the folder may have led the name to a disk: the link is replaced
    return not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)) or where.startswith(_OPENED)


def publish(temporary: str | Path, path: str | Path, mode: int | None = None) -> None:
    """Give a temporary file its name, and the rights of one that was written in place.

    Args:
        temporary: the file, whole.
        path: its name; a file there is replaced.
        mode: its rights; by default those that the umask gives.
    """
    # mkstemp gives 0600: nobody else reads it before it is what it shall be
    os.chmod(temporary, 0o666 & ~_umask() if mode is None else mode)
    os.replace(temporary, path)


def make_private(path: str | Path) -> None:
    """Take from others the right to read a file that is there, such as an earlier version of FaceVeil gave it.

    Args:
        path: the file; nothing is done where it is not there.

    Raises:
        ValueError: it is a link, see `open_in_place`.
        OSError: its rights cannot be changed: it is somebody else's.
    """
    path = Path(path)
    if os.name == "posix" and path.exists() and path.stat().st_mode & 0o077:
        handle = open_in_place(path, os.O_RDONLY)
        try:
            os.fchmod(handle, PRIVATE)
        finally:
            os.close(handle)


def open_in_place(path: str | Path, flags: int) -> int:
    """Open a file that is written where it stands, such as a log that grows; never one that lies elsewhere.

    Whoever made the folder may have led the name to any file of whoever writes in it.

    Args:
        path: of the file.
        flags: as `os.open` has them, such as `os.O_RDWR | os.O_CREAT`; not `O_TRUNC`.

    Returns:
        The number of the open file.

    Raises:
        ValueError: it is a link, has a second name (hard link), or is no file.
        OSError: it cannot be opened.
    """
    path = Path(path)
    odd = f"{path}: is a link, or no file, and might be anything else of yours: not written; remove it"
    if path.is_symlink():  # said in our words, and where the system has no flag for it
        raise ValueError(odd)
    handle = os.open(path, flags | _NO_LINK | _NO_WAIT, 0o666)
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
        os.close(handle)
        raise ValueError(odd)
    return handle


def read_bounded(path: str | Path, most: int) -> bytes:
    """Read a file that somebody else may have made: no pipe is waited for, and a sparse file of terabytes is not read.

    Args:
        path: of the file.
        most: bytes that such a one has at most.

    Raises:
        ValueError: it is larger, or no file.
        OSError: it cannot be read.
    """
    with open(os.open(path, os.O_RDONLY | _NO_WAIT), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path}: is no file")
        content = file.read(most + 1)
    if len(content) > most:
        size = f"{most >> 20} MB" if most >> 20 else f"{most} bytes"
        raise ValueError(f"{path}: is larger than {size}, which no such file of ours is")
    return content


def append_to(path: str | Path) -> TextIO:
    """Open a text file, UTF-8 with Unix's ends of lines, to add to it; made where it is missing.

    Args:
        path: of the file.

    Raises:
        ValueError, OSError: see `open_in_place`.
    """
    handle = open_in_place(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    return open(handle, "a", encoding="utf-8", newline="\n")


def cut_off(path: str | Path, length: int) -> None:
    """Shorten a file that is there.

    Args:
        path: of the file.
        length: bytes that stay.

    Raises:
        ValueError, OSError: see `open_in_place`.
    """
    with open(open_in_place(path, os.O_RDWR), "r+b") as file:
        file.truncate(length)


def is_temporary(name: str, of: str) -> bool:
    """Return whether a file is called as `write_atomically` calls the temporary one of another, which a kill may leave.

    Args:
        name: of the file, without its folder.
        of: name of the other file.
    """
    return re.fullmatch(rf"\.{re.escape(of)}\.[a-z0-9_]{{8}}\.tmp", name) is not None


def is_plain_name(name: str | None) -> bool:
    """Return whether a name is one of a file or folder alone: it leads nowhere else.

    Args:
        name: such as a run's; None is no name.

    Example:
        >>> [is_plain_name(name) for name in ("run", "../run", "a/b", "..", "", None)]
        [True, False, False, False, False, False]
    """
    return name not in (None, "", ".", "..") and Path(str(name)).name == name


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk: after a rename, where the system can.

    Args:
        folder: an existing folder.
    """
    if os.name != "posix":  # Windows opens no folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0o022)  # the only way to read it is to set it
    os.umask(mask)
    return mask


def file_sha256(file: str | Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal; it is read by and by.

    Args:
        file: an existing file.
    """
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
