"""Scores of a search on disk, line by line, so that a killed search goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from lightning_app.core.files import append_to, cut_off, write_atomically


class SearchJournal:
    """Sums of losses by mask and number of images; kept in memory, and in a JSON-lines file where one is named.

    The file's first line is the fingerprint of what decides the scores, each further line one sum:
    `{"mask": SHA-256, "images": n, "sum": nats}`. Lines are flushed one by one. A last line that a kill cut
    short is cut off.

    Args:
        path: the file; made where it is missing, gone on with where it has the same fingerprint. None keeps
            nothing on disk.
        fingerprint: JSON-able.
        replace: whether a file that cannot be gone on with is written anew rather than refused.

    Attributes:
        sums: mask hash → images → sum of losses in nats.

    Raises:
        ValueError: the file is no journal, is damaged before its last line, or has another fingerprint; or is a
            folder or a link.
    """

    def __init__(
        self, path: str | Path | None, fingerprint: Mapping[str, object], replace: bool = False
    ) -> None:
        self.sums: dict[str, dict[int, float]] = {}
        self._file: IO[str] | None = None
        if path is None:
            return
        self.path = Path(path)
        self._open(json.dumps(fingerprint, sort_keys=True) + "\n", replace)

    def __enter__(self) -> SearchJournal:
        """Return the journal."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def add(self, mask: str, images: int, total: float) -> None:
        """Keep the sum of a mask's losses over the first so many images."""
        self.sums.setdefault(mask, {})[images] = total
        if self._file is not None:
            self._file.write(json.dumps({"mask": mask, "images": images, "sum": total}) + "\n")
            self._file.flush()

    def _open(self, header: str, replace: bool) -> None:
        if self.path.is_dir():
            raise ValueError(f"journal: {self.path} is a folder; name a file")
        content = self.path.read_bytes() if self.path.exists() else b""
        if header.encode().startswith(content):  # new, or killed while its first line was written
            write_atomically(self.path, header)
            content = header.encode()
        try:
            rest = self._take(content, header)
        except ValueError:
            if not replace:
                raise
            self.sums, rest = {}, b""
            write_atomically(self.path, header)
        if rest:
            cut_off(self.path, len(content) - len(rest))
        self._file = append_to(self.path)

    def _take(self, content: bytes, header: str) -> bytes:
        """Read the file's sums and return a last line that was cut short."""
        *lines, rest = content.split(b"\n")
        self._check(lines[0] if lines else rest, header)
        for number, line in enumerate(lines[1:], start=2):
            self._read(line, number)
        return rest

    def _check(self, line: bytes, header: str) -> None:
        ours = json.loads(header)
        try:
            theirs = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"journal: {self.path} is no journal of a search; choose another name"
            ) from error
        if not isinstance(theirs, dict) or not theirs.keys() & ours.keys():
            raise ValueError(f"journal: {self.path} is no journal of a search; choose another name")
        other = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
        if other:
            was, now = _short(theirs.get(other[0])), _short(ours.get(other[0]))
            raise ValueError(
                f"journal: {self.path} is of a search with another {', '.join(other)} ({other[0]} was {was}, "
                f"is {now}); remove it or choose another name"
            )

    def _read(self, line: bytes, number: int) -> None:
        try:
            entry = json.loads(line)
            mask, images, total = str(entry["mask"]), int(entry["images"]), float(entry["sum"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"journal: line {number} of {self.path} is damaged; remove the file") from error
        self.sums.setdefault(mask, {})[images] = total


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else text[:20] + " …"
