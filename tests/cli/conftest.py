"""The parser of a command line of `fit`, made once for each file of tests that only reads one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from jsonargparse import ArgumentParser

from tests.cli.fit_parser import fit_parser


@pytest.fixture(scope="module")
def parser() -> Iterator[ArgumentParser]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["main.py"])
        yield fit_parser()
