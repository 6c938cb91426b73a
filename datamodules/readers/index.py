"""Compact names of millions of files, and the cache that keeps a scan from being repeated."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

_VERSION = 2  # of the cache's format; another one is rescanned
_PATIENCE = 1800.0  # seconds to wait for another rank's scan

_log = logging.getLogger(__name__)


class Names:
    """Strings in one blob of bytes with offsets: what a list of `str` takes 60 bytes each for.

    Args:
        blob: uint8, the names (as the file system encodes them) one after the other.
        ends: int64 `[N]`, where each ends.
    """

    def __init__(self, blob: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.blob, self.ends = blob, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Make it of names."""
        encoded = [os.fsencode(name) for name in names]
        blob = np.frombuffer(b"".join(encoded), np.uint8)
        return cls(blob, np.cumsum([len(name) for name in encoded], dtype=np.int64))

    @classmethod
    def joined(cls, parts: list[Names]) -> Names:
        """Join lists of names into one."""
        if not parts:
            return cls.of([])
        starts = np.cumsum([0, *(len(part.blob) for part in parts[:-1])], dtype=np.int64)
        ends = [part.ends + start for part, start in zip(parts, starts, strict=True)]
        return cls(np.concatenate([part.blob for part in parts]), np.concatenate(ends))

    def slice(self, start: int, stop: int) -> Names:
        """Return the names from `start` up to `stop`."""
        first = int(self.ends[start - 1]) if start else 0
        last = int(self.ends[stop - 1]) if stop else 0
        return Names(self.blob[first:last], self.ends[start:stop] - first)

    def take(self, places: Iterable[int]) -> Iterator[str]:
        """Yield the names at these places, one after the other: faster than one at a time."""
        blob, ends = self.blob.tobytes(), [0, *self.ends.tolist()]
        return (os.fsdecode(blob[ends[place] : ends[place + 1]]) for place in places)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.blob[start : self.ends[index]].tobytes())


class Scan(ABC):
    """Something slow to find out, worth keeping between runs."""

    kind: str
    path: Path

    @abstractmethod
    def is_current(self, kept: Arrays) -> bool:
        """Return whether what was kept is still true."""

    @abstractmethod
    def make(self, kept: Arrays | None) -> Arrays:
        """Find out anew, with the help of what was kept."""

    def get(self, cache: bool = True) -> Arrays:
        """Take the result from the cache where it is current, else make it and keep it.

        Ranks that start together wait for the first, then read its file. A cache that is corrupt is made
        again; one that cannot be written is skipped, with a line in the log.
        """
        if not cache:
            return self.make(None)
        path = self._file()
        kept = _load(path)
        if kept is not None and self.is_current(kept):
            return kept
        with self._alone(path):
            kept = _load(path)  # by now another rank may have written it
            if kept is not None and self.is_current(kept):
                return kept
            made = self.make(kept)
            self._save(path, made)
        return made

    def _alone(self, path: Path) -> AbstractContextManager[object]:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return FileLock(path.with_suffix(".lock"), timeout=_PATIENCE).acquire()
        except (OSError, NotImplementedError, Timeout) as error:
            self._skipped(error)
            return nullcontext()

    def _save(self, path: Path, arrays: Arrays) -> None:
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.stem, delete=False) as file:
                temporary = Path(file.name)
                np.savez(file, allow_pickle=False, **arrays, version=np.array(_VERSION))
            temporary.replace(path)
        except OSError as error:
            self._skipped(error)

    def _skipped(self, error: Exception) -> None:
        _log.info("the scan of %s is not cached (%s): it is repeated on every start", self.path, error)

    def _file(self) -> Path:
        key = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:24]
        return cache_folder() / f"{self.kind}-{key}.npz"


def cache_folder() -> Path:
    """Return where scans are kept: `$XDG_CACHE_HOME/faceveil`, by default `~/.cache/faceveil`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "faceveil"


def _load(path: Path) -> Arrays | None:
    try:
        with np.load(path, allow_pickle=False) as kept:
            arrays = dict(kept)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        _log.warning("%s is corrupt (%s): scanning again", path, error)
        return None
    return arrays if arrays.get("version") == _VERSION else None
