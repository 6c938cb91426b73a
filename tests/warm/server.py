"""The server of warm processes: it imports everything once, then forks for each program that asks; see the package."""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import io
import json
import multiprocessing
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
import types
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.spared import spare
from tests.warm import COLD, FOLDER, ROOT

_MODULES = (
    "torch",
    "torch.distributed.run",
    "tests.small_run",
    "tests.federated.tiny",
    "main",
    "lightning_app.cli.app",
    "lightning_app.commands",
    "lightning_app.export",
    "matplotlib.pyplot",
    "benchmarks",
)
# what a first run of a command imports only then; Flower is an extra. Not Ray: its workers would take over what it has
# read of the environment, and die at their start
_EXTRAS = (
    "attrs",
    "fsspec.implementations.chained",
    "rich._emoji_codes",
    "torch.utils.serialization",
    "lightning_app.federated.flower.apps",
    "flwr.cli.app",
    "flwr.superlink.cli",
    "flwr.supernode.cli",
    "flwr.supercore.cli",
    "flwr.supernode.runtime.run_clientapp",
    "wandb",
    "sklearn.metrics",
    "skimage.metrics",
)


@dataclass(frozen=True)
class _Fork:
    """A process that runs, the file that tells its end, and the program that stands for it."""

    pid: int
    ended: int
    connection: socket.socket


def serve(folder: Path, listening: int) -> dict[str, Any]:
    """Fork for each connection, pass on signals and ends, until standard input ends; return in the fork.

    The fork is the process that was asked for. There is one fork for each: copying the page tables of a process that
    has imported everything costs a tenth of a second.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    door = socket.socket(fileno=listening)
    forks: dict[int, _Fork] = {}  # by the files that are waited for: each has two
    imported = False
    while True:
        ready, _, _ = select.select([door.fileno(), 0, *forks], [], [])
        if 0 in ready:
            for left in set(forks.values()):
                os.kill(left.pid, signal.SIGKILL)
            os._exit(0)
        for file in ready:
            if file == door.fileno():
                connection, _ = door.accept()
                if not imported:
                    imported = True
                    _import()
                if (taken := _take(connection)) is None:
                    connection.close()
                    continue
                order, files = taken
                pid = os.fork()
                if pid == 0:
                    (folder / str(os.getpid())).write_text(str(order["pid"]))
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    for taken_over in (door, connection, *(one.connection for one in forks.values())):
                        taken_over.detach()  # its number may become a file of the program, which it would close
                    _become(order, files)
                    return order
                for passed in files:
                    os.close(passed)
                made = _Fork(pid, os.pidfd_open(pid), connection)
                forks |= {made.ended: made, connection.fileno(): made}
            elif (fork := forks.get(file)) is None:
                continue  # it has ended in this round
            elif file == fork.ended:
                del forks[file]
                forks.pop(fork.connection.fileno(), None)
                _close(fork, folder)
            elif not _pass_on(fork):
                del forks[file]


def _import() -> None:
    spare()
    for name in _MODULES:
        importlib.import_module(name)
    for name in _EXTRAS:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy all of it


def _take(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Read an order and its files; None where the program has ended over it."""
    head, files, _, _ = socket.recv_fds(connection, 8, 250)
    length, text = int.from_bytes(head, "big"), b""
    while len(text) < length and (more := connection.recv(length - len(text))):
        text += more
    if not head or len(text) < length:
        for file in files:
            os.close(file)
        return None
    order: dict[str, Any] = json.loads(text)
    return order, files


def _pass_on(fork: _Fork) -> bool:
    """Pass on signals; where the program is gone, kill the fork and return False."""
    signals = b""
    with suppress(ConnectionResetError):
        signals = fork.connection.recv(64)
    for number in signals or [signal.SIGKILL]:
        os.kill(fork.pid, number)  # it is nobody else: it has not been waited for
    return bool(signals)


def _close(fork: _Fork, folder: Path) -> None:
    """Take the fork's end and tell it."""
    code = os.waitstatus_to_exitcode(os.waitpid(fork.pid, 0)[1])
    (folder / str(fork.pid)).unlink(missing_ok=True)
    with suppress(BrokenPipeError, ConnectionResetError):
        fork.connection.sendall(code.to_bytes(4, "big", signed=True))
    fork.connection.close()
    os.close(fork.ended)


def _become(order: dict[str, Any], files: list[int]) -> None:
    """Take on what the program was given: files by their numbers, environment, folder, signals that are ignored."""
    wanted = order["files"]
    lowest = max(wanted, default=0) + 3
    high = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, lowest) for file in files]
    for number in {int(name) for name in os.listdir("/proc/self/fd")} - set(high):
        with suppress(OSError):
            os.close(number)
    for file, number in zip(high, wanted, strict=True):
        os.dup2(file, number, inheritable=True)
        os.close(file)
    for number in order["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    os.umask(order["umask"])
    os.setpgid(0, 0)
    before = os.environ.get("PYTHONPATH", "")
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    added = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = added + [path for path in sys.path[1:] if path not in before.split(os.pathsep)]
    sys.path.append(str(ROOT))
    sys.executable = str(Path(os.environ[FOLDER]) / "python") if FOLDER in os.environ else COLD
    multiprocessing.set_executable(sys.executable)
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "utf-8").partition(":")
    for name in ("stdin", "stdout", "stderr"):
        _reopen(name, encoding, errors or ("backslashreplace" if name == "stderr" else "strict"))
    # what was read of the environment on import
    rank_zero = importlib.import_module("lightning.fabric.utilities.rank_zero")
    rank_zero.rank_zero_only.rank = rank_zero._get_rank() or 0
    importlib.import_module("torch").set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def _reopen(name: str, encoding: str, errors: str) -> None:
    number = ("stdin", "stdout", "stderr").index(name)
    try:
        os.fstat(number)
    except OSError:  # it was closed
        stream = None
    else:
        file = io.FileIO(number, "r" if name == "stdin" else "w", closefd=False)
        buffer = io.BufferedReader(file) if name == "stdin" else io.BufferedWriter(file)
        lines = name == "stderr" or os.isatty(number)
        stream = io.TextIOWrapper(buffer, encoding=encoding, errors=errors, line_buffering=lines)
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def _run(order: dict[str, Any]) -> None:
    """Run what Python was asked to: a script, `-c CODE` or `-m MODULE`; with other options a cold Python does."""
    args = order["args"]
    if order["script"]:
        sys.argv = [order["program"], *args]
        module, _, function = order["script"].partition(":")
        sys.exit(getattr(importlib.import_module(module), function)())
    while args and args[0] in ("-u", "-B"):
        args = args[1:]
    if not args or (args[0].startswith("-") and args[0] not in ("-c", "-m")):
        os.execv(COLD, [COLD, *order["args"]])
    kind, rest = args[0], args[1:]
    if kind == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *rest[1:]]
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        exec(compile(rest[0], "<string>", "exec"), module.__dict__)
    elif kind == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = [rest[0], *rest[1:]]
        sys.modules.pop(rest[0], None)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(kind).resolve().parent))
        sys.argv = [kind, *rest]
        runpy.run_path(kind, run_name="__main__")


def _ended(order: dict[str, Any]) -> int:
    """Run, end as Python ends, and return the exit code."""
    code = 0
    try:
        _run(order)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:  # the resource tracker closes its own
                stream.flush()
    except OSError:
        code = 120
    return code & 0xFF


if __name__ == "__main__":
    # what is left of Python's end, taking thousands of modules apart, takes seconds
    os._exit(_ended(serve(Path(sys.argv[1]), int(sys.argv[2]))))
