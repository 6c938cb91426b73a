"""One process at a time writes in a run's folder."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

if sys.platform != "win32":
    import fcntl

log = logging.getLogger("faceveil")
LOCK = ".lock"
_PATIENCE_S = (
    10.0  # a ServerApp outlives a killed SuperLink by up to 6 s, see lightning_app.federated.flower.serverapp
)
# by process (a forked one inherits this table and not the locks), device and number of the file; open until it ends
_held: dict[tuple[int, int, int], TextIO] = {}


def hold(run_dir: Path) -> None:
    """Keep other processes from training in a folder, from now until this process ends, however it ends.

    The system drops the lock with the process, so that a SIGKILL leaves none behind. It is a POSIX lock: forked
    loaders and ranks do not inherit it, and this process may ask again.

    Args:
        run_dir: `runs/<name>`; made where it is missing. The lock file stays in it.

    Raises:
        ValueError: another process holds it.
        OSError: the folder cannot be written.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / LOCK
    if path.is_file() and _number(path.stat()) in _held:
        return  # opened and closed again, the file would lose its lock
    file = path.open("a+", encoding="utf-8")
    end = time.monotonic() + _PATIENCE_S
    while not _locked(file, run_dir):
        if time.monotonic() > end:
            file.seek(0)
            who = file.read().strip()
            file.close()
            raise ValueError(_taken(run_dir, who))
        time.sleep(0.2)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    _held[_number(os.fstat(file.fileno()))] = file


def _locked(file: TextIO, run_dir: Path) -> bool:
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
    return path.is_file() and _number(path.stat()) in _held


def _holder(path: Path) -> str | None:
    """Return what a lock file that another process holds says of it; not for one of this process, see `hold`."""
    if not path.is_file() or sys.platform == "win32":
        return None
    with suppress(OSError), path.open("r+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return file.read().strip()
    return None


def release(run_dir: Path) -> None:
    """Let go of a folder that this process holds, and remove its lock file; nothing is done where it holds none.

    Args:
        run_dir: `runs/<name>`.
    """
    path = run_dir / LOCK
    if path.is_file() and (file := _held.pop(_number(path.stat()), None)) is not None:
        path.unlink()  # before the lock goes with the file
        file.close()
