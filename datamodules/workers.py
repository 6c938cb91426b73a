"""Why a process that reads images has failed, in a line that says what to do."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

_SHARED = "/dev/shm"  # where Linux keeps what processes share
_NO_ROOM = re.compile(r"shared memory|No space left on device|Bus error", re.I)
_NO_FILES = re.compile(r"Too many open files|items of ancdata", re.I)
_KILLED = re.compile(r"DataLoader worker .*(killed by signal|exited unexpectedly)", re.I)
_CAUGHT = re.compile(r"Caught (\w+) in DataLoader worker process")


@contextmanager
def told_in_a_line(workers: int) -> Iterator[None]:
    """Turn what a worker's failure brings (up to ninety lines of two processes) into the line that matters.

    Args:
        workers: processes that read; where there are none, errors pass as they are.

    Raises:
        OSError: there is no room for what the processes share, there are too many open files, or one was killed.
        ValueError, OSError: what a reader raised, as it raised it.
    """
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        if not workers:
            raise
        said = reason_of(error, workers)
        if said is error:
            raise
        raise said from error


def reason_of(error: Exception, workers: int) -> Exception:
    """Return why reading in processes has failed; the error itself where it is a bug of the reader's.

    Args:
        error: that the DataLoader raised.
        workers: its processes.
    """
    text = str(error)
    caught = _CAUGHT.match(text)
    own = isinstance(error, ValueError) or (isinstance(error, OSError) and not _NO_ROOM.search(text))
    if caught and own and not _NO_FILES.search(text):
        return (ValueError if isinstance(error, ValueError) else OSError)(_raised(text, caught[1]))
    fewer = f"give fewer than --data.num_workers {workers}, or 0"
    if _NO_ROOM.search(text):
        return OSError(
            f"data.num_workers={workers}: no room in {_SHARED}{_size()} for what processes hand over: {fewer}, "
            "or a smaller --data.global_batch_size, or make it larger (docker run --shm-size 2g, or --ipc host)"
        )
    if _NO_FILES.search(text):
        return OSError(
            f"data.num_workers={workers}: too many open files, of which every batch handed over takes one: {fewer}, or "
            "allow more (ulimit -n 65536)"
        )
    if _KILLED.search(text):
        return OSError(
            f"data.num_workers={workers}: a process that reads images was killed, for want of memory perhaps: {fewer}"
        )
    return error


def _raised(text: str, name: str) -> str:
    """Find what was raised behind the traceback that a worker sends."""
    lines = text.splitlines()
    found = [number for number, line in enumerate(lines) if re.match(rf"([\w.]+\.)?{name}: ", line)]
    return "\n".join(lines[found[-1] :]).partition(": ")[2] if found else lines[-1]


def _size() -> str:
    try:
        return f" ({shutil.disk_usage(_SHARED).total / 2**20:.0f} MB)"
    except OSError:
        return ""
