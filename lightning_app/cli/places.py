"""Where in the configs being read a wrong name stands: file and line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# what jsonargparse says is wrong (4.53), the part of it that stands in the file
_WRONG = (
    re.compile(r"[Oo]ption '(?P<word>[^']+)' is not accepted"),
    re.compile(r"does not accept option '(?P<word>[^']+)'"),
    re.compile(r"module '(?P<module>[^']+)' has no attribute '(?P<word>[^']+)'"),
    re.compile(r"[Ii]mport path(?: string:)? (?P<word>[\w.]+)"),
    re.compile(r"Got value: (?P<word>\S+)"),
    re.compile(r"Given value: (?P<word>[^\s{\[]+)$", re.M),
    re.compile(r".*Problem with given class_path '(?P<word>[^']+)'", re.S),
)


class Files:
    """The config files of the command line that is being read, or was last."""

    def __init__(self) -> None:
        self.read: list[Path] = []
        self._depth = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Forget the files of an earlier command line; within another reading nothing is forgotten."""
        if self._depth == 0:
            self.read = []
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def place(self, message: str) -> str:
        """Return where what an error is about stands, as `FILE, line 3: `; nothing where it is in no config.

        Args:
            message: of jsonargparse, whole.
        """
        for word in _words(message):
            found = re.compile(rf"(?<![\w.]){re.escape(word)}(?!\w)")
            for file in reversed(self.read):
                for number, line in enumerate(file.read_text("utf-8", "replace").splitlines(), 1):
                    if found.search(line.partition("#")[0]):
                        return f"{file}, line {number}: "
        if message.startswith("Problems parsing config") and self.read:
            return f"{self.read[-1]}: "
        return ""


def _words(message: str) -> Iterator[str]:
    for pattern in _WRONG:
        if found := pattern.search(message):
            module = found.groupdict().get("module")
            word = f"{module}.{found['word']}" if module else found["word"]
            yield word
            if not module and pattern in _WRONG[:2]:
                yield from reversed(word.split("."))


FILES = Files()
