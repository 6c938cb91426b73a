"""What the tests read out of the pages: links, anchors, commands and configs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)
_SPLIT = re.compile(r"^- .*\n(?: +\S.*\n)*\n(?=(- .*))", re.MULTILINE)
_CONFIG = re.compile(r"--config[ =]([\w<>./-]+\.yaml)")


class Call(NamedTuple):
    """A command line of ours that a page shows.

    Attributes:
        command: such as `fit`.
        options: names that begin with `--`, without values.
    """

    command: str
    options: list[str]


def fenced(text: str, language: str | None = None) -> list[str]:
    """Return the blocks of code of a page, of one language where it is given."""
    return [body for tongue, body in _FENCE.findall(text) if language in (None, tongue)]


def prose(text: str) -> str:
    """Return a page without its blocks of code."""
    return _FENCE.sub("", text)


def links(text: str) -> list[str]:
    """Return the targets of all links and pictures of a page."""
    return _LINK.findall(_CODE.sub("`", prose(text)))


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose(text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


def crowded(text: str) -> list[str]:
    """Return the headings without a blank line before them."""
    lines = prose(text).split("\n")
    return [line for before, line in pairwise(lines) if before and _HEADING.match(line)]


def split_lists(text: str) -> list[str]:
    """Return the items that a blank line parts from the list they go on with: some readers then show two lists."""
    return [item.split("\n")[0] for item in _SPLIT.findall(prose(text))]


def configs(text: str) -> set[str]:
    """Return the configs that a page gives to `--config`."""
    return set(_CONFIG.findall(text))


def code_spans(text: str) -> list[str]:
    """Return what stands in backticks in a page's prose."""
    return _CODE.findall(prose(text))


def calls(text: str, commands: set[str]) -> Iterator[Call]:
    """Return the command lines of a page: `python main.py COMMAND …`, and `COMMAND --…` in backticks.

    Args:
        text: of the page.
        commands: those there are; a word after `main.py` counts whatever it is.
    """
    lines = "\n".join(fenced(text)).replace("\\\n", " ").splitlines()
    for line in [*lines, *(span.replace("\\|", "|") for span in code_spans(text))]:
        bare = line.split(" #")[0].strip()
        before, ours, after = bare.partition("main.py ")
        ours = ours if before.endswith("python ") or before.startswith("torchrun ") else ""
        words = _split(after if ours else bare)
        if not words or words[0].isupper() or not (ours or (words[0] in commands and "--" in bare)):
            continue
        yield Call(words[0], [word.split("=")[0] for word in words[1:] if word.startswith("--")])


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()
