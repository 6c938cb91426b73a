"""Where in a study's config stands what an error is about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def said_at(where: str, what: str = "") -> Iterator[None]:
    """Put before every error of bad input where in the config its cause stands.

    Args:
        where: such as `methods.mosaic 8`.
        what: said behind it, but of a file that is not there, whose message names it.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: any other error of input or of the system.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where}: {error}") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{where}: {f'{what}: ' if what else ''}{error}") from error
