"""Which FaceVeil wrote a file."""

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path


def version() -> str:
    """Return FaceVeil's version, for manifests and sidecars."""
    try:
        return installed("faceveil")
    except PackageNotFoundError:
        return "not installed"


@cache
def commit() -> str:
    """Return the commit of the code, with `-dirty` where files were changed since; empty outside git."""
    home = Path(__file__).parent
    git = ["git", "-C", str(home), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True)
        tracked = [*git[:3], "ls-files", "--error-unmatch", Path(__file__).name]
        subprocess.run(
            tracked, capture_output=True, timeout=10, check=True
        )  # not of a git that it is only unpacked in
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()
