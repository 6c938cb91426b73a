"""Children that end with their parent, whatever ends it: a SIGKILL tells nobody.

The parent takes a `Bond` and hands it to the child, which calls `end_with_parent` first of all. A command of ours that
is started as a program gets it by `bonded`, and calls `end_with_caller`.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

_VARIABLE = "FACEVEIL_PARENT"
_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_LOOK_S = 1.0
# found now, and not in a process that was forked a moment ago, where little is safe
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


@dataclass(frozen=True)
class Bond:
    """Who a child belongs to.

    Attributes:
        pid: of the process that starts it.
        lasting: whether the thread that starts it lives as long as that process. Linux sends the signal of a parent's
            death when the *thread* that forked ends, so that only the main thread's children can ask for it.
    """

    pid: int
    lasting: bool


def bond() -> Bond:
    """Take a bond to this process, in the thread that starts the child."""
    return Bond(os.getpid(), threading.current_thread() is threading.main_thread())


def end_with_parent(to: Bond, grace: float = 0.0) -> None:
    """End this process, by SIGKILL or `os._exit`, as soon as the one it belongs to is gone; at once if it is already.

    Linux sends a signal where it can (`PR_SET_PDEATHSIG`). Elsewhere, and for a child of a fork server or of a thread
    that may end before its process, a thread waits for the end.

    Args:
        to: the bond that the parent took.
        grace: seconds that the process gets to end by itself first.
    """
    through = multiprocessing.parent_process()
    if os.getppid() != to.pid and not (through is not None and through.pid == to.pid):
        os._exit(1)  # it ended before it was watched
    if _PRCTL is not None and to.lasting and not grace and os.getppid() == to.pid:
        _ask(to)
        return
    threading.Thread(target=_watch, args=(to, grace), daemon=True, name="faceveil-parent").start()


def _watch(to: Bond, grace: float) -> None:
    through = multiprocessing.parent_process()
    if through is not None and through.pid == to.pid:
        through.join()
    else:
        while os.getppid() == to.pid:
            time.sleep(_LOOK_S)
    time.sleep(grace)
    os._exit(1)


def _ask(to: Bond) -> None:
    """Ask Linux for SIGKILL at the parent's end; one call, fit for a process that was forked a moment ago."""
    assert _PRCTL is not None
    _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != to.pid:  # it ended before it was watched
        os._exit(1)


def bonded(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what `subprocess.Popen` needs to start a program that is to end with this process.

    Linux ends any program. Elsewhere, and where a thread starts it that may end before, one of ours ends itself, see
    `end_with_caller`.

    Args:
        environment: of the program.
    """
    own = bond()
    if _PRCTL is not None and own.lasting:  # what is asked for before the program is loaded stays asked for
        return {"env": dict(environment), "preexec_fn": partial(_ask, own)}
    return {"env": {**environment, _VARIABLE: str(own.pid)}}


def end_with_caller() -> None:
    """End with the process that started this command, where it wants that; its own children are not told."""
    said = os.environ.pop(_VARIABLE, "")
    if said.isdecimal():
        end_with_parent(Bond(int(said), lasting=False))
