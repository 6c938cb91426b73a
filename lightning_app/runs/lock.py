"""One process at a time writes in a run's folder."""

from __future__ import annotations

import io
import logging
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from lightning_app.core.files import open_in_place

if sys.platform != "win32":
    import fcntl

log = logging.getLogger("faceveil")
LOCK = ".lock"
_BEGINS = "process "
_LONGEST = 300  # bytes of a lock file that are read
_PATIENCE_S = (
    10.0  # a ServerApp outlives a killed SuperLink by up to 6 s, see lightning_app.federated.flower.serverapp
)
# by process (a forked one inherits this table and not the locks), device and number of the file; open until it ends
_held: dict[tuple[int, int, int], io.FileIO] = {}


def hold(run_dir: Path) -> None:
    """Keep other processes from training in a folder, from now until this process ends, however it ends.

    The system drops the lock with the process, so that a SIGKILL leaves none behind. It is a POSIX lock: forked
    loaders and ranks do not inherit it, and this process may ask again.

    Args:
        run_dir: `runs/<name>`; made where it is missing. The lock file stays in it.

    Raises:
        ValueError: another process holds it; or the lock file is a link, or holds what we did not write.
        OSError: the folder cannot be written.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / LOCK
    if _is_ours(path):
        return  # opened and closed again, the file would lose its lock
    file = io.FileIO(open_in_place(path, os.O_RDWR | os.O_APPEND | os.O_CREAT), "a+")
    try:
        _wait(file, run_dir)
        if not _is_text_of_ours(_said(file)):
            raise ValueError(f"{path}: is no lock file of FaceVeil: it is left as it is; remove it")
        file.truncate(0)
        file.write(f"{_BEGINS}{os.getpid()} on {socket.gethostname()}\n".encode())
    except BaseException:
        file.close()
        raise
    _held[_number(os.fstat(file.fileno()))] = file


def _wait(file: io.FileIO, run_dir: Path) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not _locked(file, run_dir):
        if time.monotonic() > end:
            raise ValueError(_taken(run_dir, _said(file)))
        time.sleep(0.2)


def _said(file: io.FileIO) -> str:
    """Return what a lock file says, or its beginning, where somebody else may have written it."""
    file.seek(0)
    return file.read(_LONGEST).decode("utf-8", "replace").strip()


def _is_text_of_ours(text: str) -> bool:
    """Return whether a lock file says what we write, whole or as a full disk left it."""
    return (text.startswith(_BEGINS) or _BEGINS.startswith(text)) and len(text.splitlines()) < 2


def _locked(file: io.FileIO, run_dir: Path) -> bool:
    """Lock a file, or tell that another process holds it; where there are no locks, say so and go on."""
    if sys.platform != "win32":
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            log.warning("%s: the file system has no locks (%s): see that no other process writes here.",
                        run_dir, error.strerror)  # fmt: skip
    return True


def _number(status: os.stat_result) -> tuple[int, int, int]:
    return os.getpid(), status.st_dev, status.st_ino


def _taken(run_dir: Path, who: str) -> str:
    return f"{run_dir}: another process is writing here ({who}): wait for its end, or give another --name"


def is_held(run_dir: Path) -> bool:
    """Return whether a process writes in a folder, this one included.

    Args:
        run_dir: `runs/<name>`.
    """
    return _is_ours(run_dir / LOCK) or _holder(run_dir / LOCK) is not None


def check_free(run_dir: Path) -> None:
    """Refuse a folder that another process writes in at this moment; without locks nobody knows.

    Args:
        run_dir: `runs/<name>`.

    Raises:
        ValueError: another process holds it.
    """
    path = run_dir / LOCK
    if not _is_ours(path) and (who := _holder(path)) is not None:
        raise ValueError(_taken(run_dir, who))


def _is_ours(path: Path) -> bool:
    return not path.is_symlink() and path.is_file() and _number(path.stat()) in _held


def _holder(path: Path) -> str | None:
    """Return what a lock file that another process holds says of it; not for one of this process, see `hold`."""
    if path.is_symlink() or not path.is_file() or sys.platform == "win32":
        return None
    # a link or a folder is held by nobody of ours; `hold` refuses it
    with suppress(OSError, ValueError), io.FileIO(open_in_place(path, os.O_RDWR), "r+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return _said(file)
    return None


def release(run_dir: Path) -> None:
    """Let go of a folder that this process holds, and remove its lock file; nothing is done where it holds none.

    Args:
        run_dir: `runs/<name>`.
    """
    path = run_dir / LOCK
    if _is_ours(path):
        file = _held.pop(_number(path.stat()))
        path.unlink()  # before the lock goes with the file
        file.close()
