"""Another process that asks for the lock of a run's folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_app.runs.lock import LOCK

# without the seconds that importing torch takes
_ASKS = f"""
import fcntl, sys
file = open({LOCK!r}, "a+")
try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    file.write("process 7 on elsewhere")
    file.flush()
    print("holds it", flush=True)
    sys.stdin.read()
except BlockingIOError:
    print("refused", flush=True)
"""


@contextmanager
def other_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start it in a folder; it keeps the lock until it is killed, at the latest at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen([sys.executable, "-c", _ASKS], cwd=folder, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    """Return its next line: `holds it` or `refused`."""
    assert process.stdout is not None
    return process.stdout.readline().strip()
