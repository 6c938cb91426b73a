"""The peak of a process's memory is its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_app.core.memory import peak_memory
from tests import warm

_ROOT = Path(__file__).parents[2]
_MB = 2**20


def _of_a_child(held: int) -> int:
    """Return what a process of its own says that holds so many MB beside Python itself."""
    code = f"from lightning_app.core.memory import peak_memory\nx = b'x' * ({held} * {_MB})\nprint(peak_memory())"
    done = subprocess.run(
        [warm.COLD, "-c", code], cwd=_ROOT, env=os.environ | {"PYTHONPATH": str(_ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_it_is_of_this_process_alone_and_sees_what_it_holds() -> None:
    ballast = b"x" * (300 * _MB)
    own = peak_memory()
    assert own is not None
    assert own > len(ballast)
    small, large = _of_a_child(0), _of_a_child(200)
    assert small < 100 * _MB, "a child must not begin with its parent's peak"
    assert 190 * _MB < large - small < 260 * _MB
