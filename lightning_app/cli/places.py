"""Where in the configs being read a wrong name stands: file and line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from lightning_app.cli.yaml_file import compose_file, line_of

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

_NAMES, _VALUES = _WRONG[:2], _WRONG[4:6]
_AS_READ = re.compile(r"[-+]?[\d.]+(?:e[-+]?\d+)?|True|False|None")  # YAML may have written it otherwise
_KEY = re.compile(r'Parser key "([^"]*)"')


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

    def tops(self, file: Path) -> set[str]:
        """Return the keys at a file's top; none where it cannot be read.

        Args:
            file: one of `read`.
        """
        node = _composed(file)
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        return {str(key.value) for key, _ in pairs}

    def place(self, message: str) -> str:
        """Return where what an error is about stands, as `FILE, line 3: `; nothing where it is in no config.

        Args:
            message: of jsonargparse, whole.
        """
        keys = [part for key in _KEY.findall(message) for part in key.split(".")]
        found = [(file, *line_of(_composed(file), keys)) for file in reversed(self.read)]
        # beside the wrong name, or the wrong value, a message may say the class, which is right
        named, values = [*_words(message, _NAMES)], [*_words(message, _VALUES)]
        # the file that has most of the keys, of these the last read; a word is looked for under them
        for file, depth, first, last in sorted(found, key=lambda one: -one[1]):
            lines = file.read_text("utf-8", "replace").splitlines()
            for word in named or values or _words(message):
                there = re.compile(rf"(?<![\w.]){re.escape(word)}(?!\w)")
                for number in range(first, min(last, len(lines)) + 1):
                    if there.search(lines[number - 1].partition("#")[0]):
                        return f"{file}, line {number}: "
            # a name or value that does not stand there was given on the command line
            if depth and not named and depth == len(keys) and all(map(_AS_READ.fullmatch, values)):
                return f"{file}, line {first}: "
        return ""


def _composed(file: Path) -> yaml.Node | None:
    try:
        return compose_file(file)
    except (OSError, ValueError):  # said where it was read
        return None


def _words(message: str, patterns: Sequence[re.Pattern[str]] = _WRONG) -> Iterator[str]:
    for pattern in patterns:
        if found := pattern.search(message):
            module = found.groupdict().get("module")
            word = f"{module}.{found['word']}" if module else found["word"].strip("[]{}'\",:")
            if not word:
                continue
            yield word
            if not module and pattern in _NAMES:
                yield from reversed(word.split("."))


FILES = Files()
