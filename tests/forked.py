"""A process that has imported everything and forks a run of the command line per order: cheap to kill.

It reads orders, one JSON object a line, and answers each with one: see `Forked`.
"""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_PATIENCE_S = 240.0  # on busy cores


class Forked:
    """The process, from the tests' side; a context manager."""

    def __enter__(self) -> Forked:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[1], env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def run(
        self, folder: Path, *args: object, ranks: int = 1, kill: dict[str, Any] | None = None, patch: str = ""
    ) -> list[int | None]:
        """Run `main.main(args)` in a folder and give the ranks' exit codes, None for one that hung.

        Args:
            folder: where; its `log.txt` takes the output, its `diary.txt` the diary.
            args: the command line.
            ranks: processes, which meet through gloo.
            kill: `signal` to `ranks` (all of them by default; with `group` to their workers as well) when `mark` (a
                step done, `.`, by default) has come `after` times, `delay` seconds later.
            patch: one of `_PATCHES`.
        """
        order = {
            "folder": str(folder),
            "args": [str(a) for a in args],
            "ranks": ranks,
            "kill": kill,
            "patch": patch,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the forking process has ended"
        codes: list[int | None] = json.loads(answer)
        return codes


def _carry_out(order: dict[str, Any]) -> list[int | None]:
    read, write = os.pipe()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(order["ranks"]):
        pid = os.fork()
        if pid == 0:
            os.close(read)
            os._exit(_child(order, rank, write, port))
        pids.append(pid)
    os.close(write)
    if kill := order["kill"]:
        come = 0
        mark = kill.get("mark", ".").encode()
        while come < kill["after"] and (byte := os.read(read, 1)):
            come += byte == mark
        time.sleep(kill.get("delay", 0.0))
        for rank in kill.get("ranks", range(len(pids))):
            with suppress(ProcessLookupError):
                (os.killpg if kill.get("group") else os.kill)(pids[rank], kill["signal"])
    codes = [_code(pid) for pid in pids]
    os.close(read)
    return codes


def _code(pid: int) -> int | None:
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _child(order: dict[str, Any], rank: int, ticks: int, port: int) -> int:
    from lightning.pytorch.utilities import rank_zero_only

    from main import main

    os.setpgid(0, 0)
    os.chdir(order["folder"])
    output = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ |= {"FACEVEIL_DIARY": "diary.txt", "FACEVEIL_TICKS": str(ticks), "XDG_CACHE_HOME": "cache"}
    if order["ranks"] > 1:
        os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(order["ranks"]),
                       "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
        setattr(rank_zero_only, "rank", rank)  # noqa: B010  Lightning reads it from the environment when it is imported
    if order["patch"]:
        _PATCHES[order["patch"]](ticks)
    try:
        main(order["args"])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 99
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _slow_file(ticks: int) -> None:
    """Write half of the fourth checkpoint and hang, as on a file system that has stalled."""
    import torch

    save, saved = torch.save, 0

    def slow(state: Any, file: Any) -> None:
        nonlocal saved
        saved += 1
        if saved < 4:
            save(state, file)
            return
        whole = io.BytesIO()
        save(state, whole)
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
        os.write(ticks, b"H")
        time.sleep(_PATIENCE_S)

    setattr(torch, "save", slow)  # noqa: B010


def _slow_rename(ticks: int) -> None:
    """Hang when the last checkpoint has made room and the new one has not taken its name."""
    replace, replaced = os.replace, 0

    def slow(source: Any, target: Any) -> None:
        nonlocal replaced
        replaced += str(target).endswith("last.ckpt")
        if replaced == 4:
            os.write(ticks, b"H")
            time.sleep(_PATIENCE_S)
        replace(source, target)

    setattr(os, "replace", slow)  # noqa: B010


def _full_disk(ticks: int) -> None:
    """Write three checkpoints and no more."""
    import torch

    save, saved = torch.save, 0

    def full(state: Any, file: Any) -> None:
        nonlocal saved
        saved += 1
        if saved > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(state, file)

    setattr(torch, "save", full)  # noqa: B010


_PATCHES: dict[str, Callable[[int], None]] = {
    "slow file": _slow_file,
    "slow rename": _slow_rename,
    "full disk": _full_disk,
}


def _prepare() -> None:
    """Draw the small run's faces and digest its set, which every fork would do again."""
    from datamodules import DrawnFaces
    from tests.drawn_once import drawn_once
    from tests.small_run import data

    setattr(DrawnFaces, "read", drawn_once)  # noqa: B010
    module = data()
    module.setup("fit")
    module.state_dict()


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    _prepare()
    for line in sys.stdin:
        print(json.dumps(_carry_out(json.loads(line))), flush=True)
