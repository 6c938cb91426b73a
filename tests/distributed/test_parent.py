"""A child ends with its parent, whatever ends that one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from lightning_app.distributed.parent import Bond, bond, bonded, end_with_caller, end_with_parent
from lightning_app.studies import runner as jobs

FORK = multiprocessing.get_context("fork")
PATIENCE_S = 30.0


def trains(folder: Path, pause: float = PATIENCE_S) -> None:
    """What a child does: say its number, and go on."""
    (folder / "child").write_text(str(os.getpid()))
    time.sleep(pause)


def child_of(folder: Path) -> int:
    end = time.monotonic() + PATIENCE_S
    while not ((folder / "child").is_file() and (folder / "child").read_text()):
        assert time.monotonic() < end, "no child"
        time.sleep(0.01)
    return int((folder / "child").read_text())


def is_over(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet has."""
    end = time.monotonic() + PATIENCE_S / 3  # the child would go on for three times as long
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    return False


def killed(parent: multiprocessing.process.BaseProcess, folder: Path) -> bool:
    """Kill a parent with -9 once its child is at work; tell whether the child has ended then."""
    child = child_of(folder)
    assert parent.pid is not None
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    return is_over(child)


def _calls(folder: Path) -> None:
    (folder / "run.py").write_text(
        f"import os, pathlib, time\npathlib.Path({str(folder / 'child')!r}).write_text(str(os.getpid()))\n"
        f"time.sleep({PATIENCE_S})\n"
    )
    jobs._MAIN = folder / "run.py"
    jobs.call(["fit"], folder / "log.txt", "")


def _forks(folder: Path, in_a_thread: bool) -> None:
    """Start a child in the main thread, or in one that ends at once."""

    def start() -> None:
        to = bond()
        FORK.Process(target=_bonded, args=(to, folder)).start()

    if in_a_thread:
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
    else:
        start()
    time.sleep(PATIENCE_S)


def _bonded(to: Bond, folder: Path) -> None:
    end_with_parent(to)
    time.sleep(0.05)  # the thread that forked is gone by now
    trains(folder)


def test_a_run_of_compare_or_ablate_ends_with_the_command(tmp_path: Path) -> None:
    """`compare` killed with -9 left its child training."""
    parent = FORK.Process(target=_calls, args=(tmp_path,))
    parent.start()
    assert killed(parent, tmp_path)


@pytest.mark.parametrize("in_a_thread", [False, True])
def test_a_forked_worker_ends_with_its_parent_and_not_with_the_thread(
    tmp_path: Path, in_a_thread: bool
) -> None:
    parent = FORK.Process(target=_forks, args=(tmp_path, in_a_thread))
    parent.start()
    assert killed(parent, tmp_path)


def test_a_child_whose_parent_is_gone_already_ends() -> None:
    gone = FORK.Process(target=end_with_parent, args=(Bond(os.getpid() + 1, True),))
    gone.start()
    gone.join()
    assert gone.exitcode == 1


def test_a_command_that_a_thread_starts_is_told_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux would end it with the thread; its own children must not take the bond for theirs."""
    found: dict[str, object] = {}
    thread = threading.Thread(target=lambda: found.update(bonded({"A": "1"})))
    thread.start()
    thread.join()
    assert found == {"env": {"A": "1", "FACEVEIL_PARENT": str(os.getpid())}}
    assert (sys.platform == "linux") == ("preexec_fn" in bonded({}))
    ended: list[Bond] = []
    monkeypatch.setattr("lightning_app.distributed.parent.end_with_parent", ended.append)
    monkeypatch.setenv("FACEVEIL_PARENT", "77")
    end_with_caller()
    end_with_caller()
    assert ended == [Bond(77, False)]
    assert "FACEVEIL_PARENT" not in os.environ
