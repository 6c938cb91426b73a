"""What the tests of `audit` share: the findings that it reports, and its verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_line import RunMain


def found(run_main: RunMain, *args: object) -> dict[str, list[str]]:
    """Audit what has faults: exit code 1, and the findings by file."""
    with pytest.raises(SystemExit) as stop:
        run_main("audit", *args, "--json", "audit.json")
    assert stop.value.code == 1
    report = json.loads(Path("audit.json").read_text())
    assert report["passed"] is False
    files: dict[str, list[str]] = {}
    for finding in report["findings"]:
        files.setdefault(finding["file"], []).append(finding["what"])
    return files


def verdict(text: str) -> str:
    """The verdict's first line, which is one line."""
    (line,) = [line for line in text.splitlines() if line.startswith("audit ") and " of " not in line[:9]]
    return line
