"""Which FaceVeil wrote a file."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed


def version() -> str:
    """Return FaceVeil's version, for manifests and sidecars."""
    try:
        return installed("faceveil")
    except PackageNotFoundError:
        return "not installed"
