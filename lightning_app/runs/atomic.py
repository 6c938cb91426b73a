"""Folders and groups of files that take the place of earlier ones whole, also where a kill comes between.

What is being made lies beside its place in a folder `.NAME.*.tmp` that the process keeps locked. One that nobody
holds any more was left by a kill: `recover` ends what had been decided, and removes the rest.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning_app.core.files import is_plain_name, sync_folder, write_atomically
from lightning_app.core.foreign import read_json

if sys.platform != "win32":
    import fcntl

_NEW, _OLD, _NAMES = "new", "old", ".names"  # within the temporary folder
_FILES = "faceveil-files"  # what the temporary folders of groups of files are called after
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's renameat2
_MOST = 64  # files of a group
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP)


@contextmanager
def folder_at_once(output: Path) -> Iterator[Path]:
    """Return a folder beside `output` to write into, which takes its place when all went well.

    After an error nothing is left of it, and an earlier folder is as it was. Where the system can swap two names
    (Linux), a kill at any point leaves the earlier folder or the new one whole in its place; elsewhere it may leave the
    earlier one under another name, from which `recover`, or the next call, brings it back.

    Args:
        output: the folder; its parents are made where they are missing.

    Raises:
        OSError: it cannot be written.
    """
    output = output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    recover(output)
    with _work(output.parent, output.name) as work:
        made, old = work / _NEW, work / _OLD
        made.mkdir()  # with the umask's rights, as mkdtemp's own are 0700
        yield made
        if not output.exists():
            os.rename(made, output)
        elif not swap(made, output):
            os.rename(output, old)
            try:
                os.rename(made, output)
            except OSError:
                os.rename(old, output)
                raise
        sync_folder(output.parent)


@contextmanager
def files_at_once(folder: Path, names: Mapping[str, str]) -> Iterator[Path]:
    """Return a folder to write into, whose files take their places, each whole, when all went well.

    Several files cannot take their places in one step. A kill between leaves the new ones beside, and `recover`, or the
    next call, puts them where they belong; until then the first of them, without which the others are nothing, is
    missing, so that nobody takes files of two makings for one.

    Args:
        folder: where they go; made where it is missing.
        names: name in the folder that is given → name in `folder`; the first of them comes last. A file that was not
            written is removed there.

    Raises:
        OSError: they cannot be written.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    _recover_files(folder)
    with _work(folder, _FILES) as work:
        yield work
        steps = [(file, own, (work / file).exists()) for file, own in names.items()]
        write_atomically(work / _NAMES, json.dumps(steps))  # decided: from here on it is gone on with
        _put(work, folder)


def recover(output: Path) -> None:
    """End what a kill left half done in the place of a folder, or of a group of files.

    Args:
        output: the folder of `folder_at_once` or `files_at_once`, or one of the files; it need not be there.
    """
    output = output.resolve()
    for work in _left(output.parent, output.name):
        with suppress(FileNotFoundError):
            if not output.exists() and (work / _OLD).is_dir():
                os.rename(work / _OLD, output)
            shutil.rmtree(work)
    _recover_files(output.parent)
    _recover_files(output)


def swap(first: Path, second: Path) -> bool:
    """Swap two names in one step.

    Args:
        first: a file or folder.
        second: another one in the same file system.

    Returns:
        Whether it was done: False where the system has no such step.

    Raises:
        OSError: one of them is not there, or may not be renamed.
    """
    rename = (
        getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    )
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(first), None, str(second))


def _recover_files(folder: Path) -> None:
    for work in _left(folder, _FILES):
        with suppress(FileNotFoundError):
            if (work / _NAMES).is_file():
                _put(work, folder)
            shutil.rmtree(work)


def _put(work: Path, folder: Path) -> None:
    """Move files to their places; given again after a kill, it does what is left.

    Raises:
        ValueError: its list is none of ours: the folder may have come with somebody else's run.
    """
    steps = _steps(work)
    first, last, written = steps[0]
    if not written or (work / first).exists():  # else the kill came after the last step
        (folder / last).unlink(missing_ok=True)
    for file, own, written in reversed(steps):
        if not written:
            (folder / own).unlink(
                missing_ok=True
            )  # of an earlier one, such as the mask of a model that had one
        elif (work / file).exists():
            os.replace(work / file, folder / own)
    sync_folder(folder)


def _steps(work: Path) -> list[tuple[str, str, bool]]:
    """Read which files go where: plain names alone, since whoever made the folder could lead anywhere else."""
    try:
        steps = read_json(work / _NAMES)
    except ValueError:
        steps = None
    sound = isinstance(steps, list) and 0 < len(steps) <= _MOST
    for step in steps if sound else ():
        match step:
            case [str(file), str(own), bool()] if is_plain_name(file) and is_plain_name(own):
                sound &= not (work / file).is_symlink() and not (work / file).is_dir()
            case _:
                sound = False
    if not sound:
        raise ValueError(
            f"{work}: is no folder that a killed export or search left: its list of files leads elsewhere, or is "
            "damaged. Nothing was done with it; remove it, and mistrust what came with it"
        )
    return [tuple(step) for step in steps]


@contextmanager
def _work(folder: Path, name: str) -> Iterator[Path]:
    """Make a temporary folder that is this process's as long as it lives."""
    work, lock = _locked_folder(folder, name)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked_folder(folder: Path, name: str) -> tuple[Path, int | None]:
    while True:
        work = Path(tempfile.mkdtemp(dir=folder, prefix=f".{name}.", suffix=".tmp"))
        # before it is locked, another process (a rank that writes beside) may take it for one that a kill left
        with suppress(FileNotFoundError):
            lock = _lock(work, wait=True)
            if work.is_dir():
                return work, lock
            if lock is not None:
                os.close(lock)


def _left(folder: Path, name: str) -> Iterator[Path]:
    """Yield temporary folders that nobody holds any more."""
    for work in sorted(folder.glob(f".{glob.escape(name)}.????????.tmp")) if folder.is_dir() else ():
        lock = _lock(work) if work.is_dir() and not work.is_symlink() else None
        if lock is not None:
            try:
                yield work
            finally:
                os.close(lock)


def _lock(work: Path, wait: bool = False) -> int | None:
    """Lock a folder until the number that is given is closed; None where another process has it, or none can."""
    if sys.platform == "win32":
        return None
    handle = os.open(work, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(handle)
        return None
    return handle
