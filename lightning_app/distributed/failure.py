"""One rank's failure ends all ranks of a run, with its message, whatever the others are waiting for.

gloo notices a rank that has gone; NCCL waits for half an hour; a rank that reads or embeds its share, with no
collective, notices nothing. So a rank that fails leaves its message in the store the ranks met at
(`MASTER_ADDR:MASTER_PORT`), and a thread of every other looks there once a second.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeAlias

from rich import get_console
from torch import distributed

from lightning_app.core.printing import one_line
from lightning_app.distributed.ranks import several

Store: TypeAlias = Any  # torch's, which it does not export to type checkers

# keys in the store: who failed first; how many know. torchrun keeps the store when it starts the ranks again
_ATTEMPT = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
_FAILED, _HEARD = f"faceveil/{_ATTEMPT}/failed", f"faceveil/{_ATTEMPT}/heard"
_LOOK_S = 1.0  # between two looks
_GRACE_S = 4.0  # what a rank gets to end in good order after another has failed
_GONE_S = 10.0  # the same where the store is gone: rank 0 may have ended well, a moment before us
_PATIENCE_S = 3.0  # how long a rank that fails waits for the others to know why
_LOST = re.compile(r"gloo|nccl|c10d|connection (closed|reset|refused)|broken pipe|timed out waiting", re.I)


class Watch:
    """A thread that ends this rank when another one has failed.

    Args:
        end_children: ends the ranks that this process has started, if any.
    """

    def __init__(self, end_children: Callable[[], None]) -> None:
        self._end_children = end_children
        self._over = threading.Event()

    def start(self) -> None:
        """Start to watch; the ranks have met."""
        threading.Thread(target=self._look, daemon=True, name="faceveil-ranks").start()

    def stop(self) -> None:
        """Stop to watch: this rank has ended well, or ends by itself."""
        self._over.set()

    def failed(self, error: BaseException) -> None:
        """Tell the other ranks why this one fails, and end those that it has started.

        Args:
            error: that ends it; where it only says that another rank has gone, that one's message counts.
        """
        self.stop()
        if several():
            with suppress(RuntimeError):  # the store is gone, and rank 0 with it: nobody is left to be told
                _leave_message(error)
        self._end_children()

    def _look(self) -> None:
        store: Store | None = None
        while not self._over.wait(_LOOK_S):
            if not several():  # not yet
                continue
            grace, speaks = _GRACE_S, _is_local_zero()
            try:
                store = _store() if store is None else store
                first = _first(store)
                if first is None:
                    continue
                store.add(_HEARD, 1)
                line = f"rank {first[0]} failed: {first[1]}"
            except RuntimeError as error:
                grace, speaks = _GONE_S, True
                line = f"rank 0 has gone without a message ({_line(error)})"
            if not self._over.wait(grace):
                if speaks:
                    get_console().show_cursor(True)
                    print(f"error: {one_line(line)}", file=sys.stderr, flush=True)
                self._end_children()
                os._exit(1)  # the main thread waits for a rank that has gone: nothing else gets through to it
            return


def rank_error(error: Exception) -> Exception:
    """Return the error that the user is to read: where another rank failed first, that one's.

    Args:
        error: that ended this rank.

    Returns:
        The error itself in a single process and where it is a bug of this rank; else a ValueError of one line.
    """
    if not several():
        return error
    rank = distributed.get_rank()
    try:
        first = _first(_store())
    except RuntimeError:
        return ValueError(f"rank 0 has gone without a message: {_line(error)}") if _is_lost(error) else error
    if first is not None and first[0] != rank:
        return ValueError(f"rank {first[0]} failed: {first[1]}")
    if first is not None and _is_lost(error):
        return ValueError(first[1])
    return ValueError(f"rank {rank}: {error}") if rank and isinstance(error, ValueError | OSError) else error


def _leave_message(error: BaseException) -> None:
    """Leave the message, if no other rank has, and wait until the others know it."""
    store, rank, world = _store(), distributed.get_rank(), distributed.get_world_size()
    words = _line(error)
    if _is_lost(error):  # the one that has gone may be about to say why
        _wait(lambda: store.check([_FAILED]))
        words = f"another rank has gone without a message (killed, or out of memory?): {words}"
    first = store.compare_set(_FAILED, "", f"{rank} {words}").decode()
    if first.split(" ", 1)[0] != str(rank):
        store.add(_HEARD, 1)
        return
    _wait(lambda: store.add(_HEARD, 0) >= world - 1)  # on rank 0 the store goes when we go


def _wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not until() and time.monotonic() < end:
        time.sleep(0.1)


def _store() -> Store:
    # a connection of our own: the process group's may be in use by a main thread that waits
    return distributed.TCPStore(  # type: ignore[attr-defined]  # exported without __all__
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False,
        timeout=timedelta(seconds=5),
    )  # fmt: skip


def _first(store: Store) -> tuple[int, str] | None:
    """Read who failed first, and why; None where nobody has."""
    if not store.check([_FAILED]):
        return None
    rank, words = store.get(_FAILED).decode().split(" ", 1)
    return int(rank), words


def _is_lost(error: BaseException) -> bool:
    """Return whether an error is no more than that another rank cannot be reached."""
    return isinstance(error, RuntimeError) and bool(_LOST.search(str(error)))


def _line(error: BaseException) -> str:
    if isinstance(error, ValueError | OSError):
        return " ".join(str(error).split())[:1000]
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def _is_local_zero() -> bool:
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0) == 0
