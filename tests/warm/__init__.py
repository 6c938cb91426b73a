"""Processes that start warm: what a test starts as `python …` is forked from a process that has imported everything.

Importing torch and Lightning costs a start ten seconds of a slow core, and the tests start tens of processes. While the
tests run, `sys.executable`, `multiprocessing`'s executable and the scripts on PATH are small programs (`shim.py`) that
hand their arguments, folder, environment and open files to one server (`server.py`), which forks; they pass signals on
and end as the fork ends. pytest-xdist's workers start so, too. All is as in a process of its own but the time that
imports take. `COLD` is the real Python.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path

COLD = os.environ.setdefault("FACEVEIL_COLD_PYTHON", sys.executable)
FOLDER = "FACEVEIL_WARM"  # names the folder of the programs in the environment
SOCKET = "socket"
ROOT = Path(__file__).resolve().parents[2]
_SCRIPTS = ("flwr", "flower-superexec", "flower-superlink", "flower-supernode", "flwr-clientapp",
            "flwr-serverapp", "torchrun")  # fmt: skip


def start() -> None:
    """Start the server and write the programs; at the end of this process the server ends."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    shim = (Path(__file__).parent / "shim.py").read_text()
    known = {script.name: script.value for script in entry_points(group="console_scripts")}
    for name in ("python", "python3", *(name for name in _SCRIPTS if name in known)):
        program = folder / name
        script = "" if name.startswith("python") else known[name]
        program.write_text(f"#!{COLD} -IS\n{shim}\nmain({str(folder / SOCKET)!r}, {COLD!r}, {script!r})\n")
        program.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as door:  # bound before anybody asks
        door.bind(str(folder / SOCKET))
        door.listen(128)
        command = [COLD, "-m", "tests.warm.server", str(folder), str(door.fileno())]
        server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, pass_fds=[door.fileno()])
    os.environ[FOLDER] = str(folder)

    def end() -> None:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)


def use() -> None:
    """Let what this process starts start warm."""
    folder = os.environ[FOLDER]
    sys.executable = f"{folder}/python"
    multiprocessing.set_executable(sys.executable)
    os.environ["PATH"] = os.pathsep.join((folder, str(Path(COLD).parent), os.environ["PATH"]))


def asked_for_by(pid: int) -> int:
    """Return the number of the program that a process stands for, its own where it was not forked by the server."""
    try:
        return int((Path(os.environ[FOLDER]) / str(pid)).read_text())
    except FileNotFoundError:
        return pid
