"""What the tests of Lightning's options and callbacks share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs.watched_fit import Run


@pytest.fixture
def fit(run_main: Callable[..., None], tmp_path: Path) -> Run:
    """A `fit` to run with options and callbacks, in an empty folder."""
    return Run(run_main, tmp_path)
