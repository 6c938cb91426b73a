"""What has become of each image, on disk line by line, so that a killed alignment goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from lightning_app.alignment.place import AlignOutcome
from lightning_app.core.files import PRIVATE, append_to, cut_off, make_private, write_atomically


class AlignJournal:
    """Outcomes by image, in memory and in a JSON-lines file; of several lines on an image the last one counts.

    The first line says how the set is aligned. A last line that a kill cut short is cut off.

    Args:
        path: the file; made where it is missing.
        description: how the set is aligned; JSON-able.

    Attributes:
        outcomes: by path in the set.

    Raises:
        FileExistsError: the file is of a set that is aligned otherwise.
        ValueError: the file is no journal of an alignment, or is damaged before its last line, or a link.
    """

    def __init__(self, path: Path, description: Mapping[str, object]) -> None:
        self.path = path
        self.outcomes: dict[str, AlignOutcome] = {}
        header = json.dumps(description, sort_keys=True)
        content = path.read_bytes() if path.exists() else b""
        if f"{header}\n".encode().startswith(content):  # new, or killed while its first line was written
            write_atomically(path, f"{header}\n", mode=PRIVATE)  # it names the files of the set
            content = path.read_bytes()
        *lines, rest = content.split(b"\n")
        _check(path, lines[0] if lines else rest, description)
        for number, line in enumerate(lines[1:], start=2):
            outcome = _read(path, line, number)
            self.outcomes[outcome.file] = outcome
        if rest:
            cut_off(path, len(content) - len(rest))
        make_private(path)
        self._file: IO[str] = append_to(path)

    def __enter__(self) -> AlignJournal:
        """Return the journal."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.close()

    def add(self, outcomes: Iterable[AlignOutcome]) -> None:
        """Keep outcomes; they are in the file when this returns."""
        for outcome in outcomes:
            self.outcomes[outcome.file] = outcome
            said = {key: value for key, value in asdict(outcome).items() if value not in (None, (), [])}
            self._file.write(json.dumps(said) + "\n")
        self._file.flush()


def read_description(path: Path) -> dict[str, Any]:
    """Read how the set of a journal is aligned; empty where there is no such file, or no whole first line.

    Args:
        path: of the journal.

    Raises:
        ValueError: it is no journal of an alignment.
    """
    if not path.exists():
        return {}
    with path.open("rb") as file:
        line = file.readline()
    return _header(path, line) if line.endswith(b"\n") else {}


def _check(path: Path, line: bytes, ours: Mapping[str, object]) -> None:
    theirs = _header(path, line)
    other = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
    if other:
        raise FileExistsError(
            f"{path.parent} holds an alignment with {other[0]} {theirs.get(other[0])}, not {ours.get(other[0])}: "
            "give --overwrite, or another --name and --output"
        )


def _header(path: Path, line: bytes) -> dict[str, Any]:
    try:
        description = json.loads(line)
    except ValueError:
        description = None
    if not isinstance(description, dict) or "centre_margin" not in description:
        raise ValueError(f"{path} is no journal of an alignment; give another --name")
    return description


def _read(path: Path, line: bytes, number: int) -> AlignOutcome:
    try:
        return AlignOutcome(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise ValueError(f"line {number} of {path} is damaged; give --overwrite to align anew") from error
