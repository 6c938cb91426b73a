"""What of a release is done, batch by batch, in a file of the owner's: a killed `desensitize` goes on from it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning_app.core.files import PRIVATE, cut_off, make_private, open_in_place, write_atomically


class Done(NamedTuple):
    """What became of an image.

    Attributes:
        sha256: of the released file, 64 hexadecimal digits; empty where it was refused.
        channels: of the released file, 1 or 3; 0 where it was refused.
        reason: why it was refused, naming nothing.
        message: the same for the owner, with the file's name.
        size: bytes of the file it was made of, before it was read; −1 where it is of no file.
        mtime_ns: when that file was last changed; −1 where it is of no file.
        clipped: of a shard's first image: how many values of the shard were cut off, being beyond the grid.
        mask: SHA-256 of the image's mask, where it has one of its own; else empty.
    """

    sha256: str = ""
    channels: int = 0
    reason: str = ""
    message: str = ""
    size: int = -1
    mtime_ns: int = -1
    clipped: int = 0
    mask: str = ""


class Journal:
    """Append-only JSON lines: what the release is made of, then one line per finished batch.

    A line is written after the batch's files have their names, in one go: what a kill cuts short is the last
    line at most, which is cut off. Lines survive a kill at once; after a power failure some may be missing, or
    their files: whoever goes on compares the files with the hashes.

    Args:
        path: the file; made by `open` where it is missing, gone on with where it has the same header.
        header: JSON-able, what decides the released bytes.
        overwrite: begin anew, whatever the file holds.

    Attributes:
        is_new: whether it is begun anew.

    Raises:
        ValueError: the file has another header and overwrite is off, or is damaged before its last line.
    """

    def __init__(self, path: Path, header: Mapping[str, object], overwrite: bool = False) -> None:
        self.path = path
        self._file: io.FileIO | None = None
        self._header = json.dumps(header, sort_keys=True).encode() + b"\n"
        first = b"" if overwrite else _first_line(path)
        self.is_new = first != self._header and self._header.startswith(first)  # a kill may have cut it short
        if not self.is_new:
            self._check(first, header)

    def open(self) -> None:
        """Make the file where it is new, cut off what a kill left of a line, and be ready to `add`.

        Raises:
            ValueError: the file is a link, or has a second name.
        """
        if self.is_new:
            write_atomically(self.path, self._header, mode=PRIVATE)  # messages name files of the set
        make_private(self.path)
        cut_off(self.path, _whole_lines(self.path))
        self._file = io.FileIO(open_in_place(self.path, os.O_WRONLY | os.O_APPEND), "ab")

    def _check(self, line: bytes, header: Mapping[str, object]) -> None:
        ours = json.loads(json.dumps(header))
        try:
            theirs = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{self.path} is no journal of a release; give another --name") from error
        if theirs == ours:
            return
        if not isinstance(theirs, dict) or theirs.keys().isdisjoint(ours):  # one or the other may be optional
            raise ValueError(f"{self.path} is no journal of a release; give another --name")
        ours, theirs = _flat(ours), _flat(theirs)
        other = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        first = other[0]
        raise ValueError(
            f"the release begun in {self.path.parent} was made with another {', '.join(other)} ({first} was "
            f"{_short(theirs.get(first))}, is {_short(ours.get(first))}): go on with what it was, replace it "
            "(--overwrite), or give another --name and --output"
        )

    def batches(self) -> Iterator[tuple[int, list[Done]]]:
        """Yield what the file holds: the number of a batch and what became of its images.

        Raises:
            ValueError: a line is damaged.
        """
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    continue
                try:
                    batch, images = json.loads(line)
                    found = [Done(*image) for image in images]
                except (ValueError, TypeError) as error:
                    raise ValueError(
                        f"line {number} of {self.path} is damaged; give --overwrite to begin anew"
                    ) from error
                yield int(batch), found

    def add(self, batch: int, images: Sequence[Done]) -> None:
        """Note a finished batch.

        Raises:
            OSError: the line cannot be written whole.
        """
        assert self._file is not None, "open() comes first"
        line = json.dumps([batch, [list(image) for image in images]]).encode() + b"\n"
        view = memoryview(line)
        while view:
            view = view[self._file.write(view) :]

    def remove(self) -> None:
        """Remove the file: there is nothing to go on with."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _flat(header: dict[str, Any]) -> dict[str, object]:
    """Convert `{"method": {"guard": 1}}` to `{"method.guard": 1}`."""
    flat: dict[str, object] = {}
    for key, value in header.items():
        flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _first_line(path: Path) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        return file.readline()


def _whole_lines(path: Path, block: int = 1 << 16) -> int:
    """Return where the last whole line ends."""
    end = path.stat().st_size
    with path.open("rb") as file:
        while end > 0:
            start = max(0, end - block)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:56] + " …"
