"""The benchmark's page names the data that we measure on."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = next(
    (
        p
        for p in (ROOT.parent / "shared/data", ROOT.parent.parent / "shared/data", Path("/work/shared/data"))
        if p.is_dir()
    ),
    None,
)
ROW = re.compile(r"^\| `([^`]+)` \| (\d*) *\| `([0-9a-f]{64})` \|$", re.MULTILINE)


def rows() -> dict[str, tuple[str, str]]:
    text = (ROOT / "docs/benchmark.md").read_text(encoding="utf-8")
    return {name: (lines, digest) for name, lines, digest in ROW.findall(text)}


def test_the_lists_are_named_with_their_hashes() -> None:
    assert {"study_train_people.txt", "study_dev_people.txt", "study_dev_pairs.txt"} <= rows().keys()
    assert len({digest for _, digest in rows().values()}) == len(rows())


@pytest.mark.parametrize("name", sorted(rows()))
def test_hashes_are_those_of_the_files(name: str) -> None:
    file = next(iter((SHARED or Path("/nowhere")).rglob(name)), None)
    if file is None:
        pytest.skip(f"{name} is not here")
    content = file.read_bytes()
    lines, digest = rows()[name]
    assert hashlib.sha256(content).hexdigest() == digest
    if lines:
        assert len(content.splitlines()) == int(lines)
