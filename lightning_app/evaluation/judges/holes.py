"""Judges that raise an error: each is a hole by itself, and the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from lightning_app.evaluation.embed import Embedder
from lightning_app.evaluation.judges.base import Judge

_LONGEST = 200  # letters of an error that are kept


class Holes:
    """Keeps judges that raise an error away from the others.

    Args:
        failed: takes `Judge.description` -> error; None raises it instead.
    """

    def __init__(self, failed: dict[str, str] | None) -> None:
        self.failed = failed

    def has(self, judge: Judge) -> bool:
        """Return whether a judge has raised an error.

        Args:
            judge: who may have.
        """
        return judge.description in (self.failed or {})

    @contextmanager
    def beside(self, judge: Judge) -> Iterator[None]:
        """Write down what a judge raises, which may be anything: it may be somebody else's.

        Args:
            judge: whose code runs.
        """
        try:
            yield
        except Exception as error:
            if self.failed is None:
                raise
            self.failed.setdefault(judge.description, in_a_line(error))

    def around(self, judge: Judge) -> Embedder:
        """Return an embedder that gives zeros once its judge has raised an error.

        Args:
            judge: that embeds.
        """
        width = 0

        def embed(image: Tensor, mask: Tensor | None, mask_index: Tensor | None) -> Tensor:
            nonlocal width
            if not self.has(judge):
                with self.beside(judge):
                    found = check_embeddings(judge(image, mask, mask_index), len(image), width)
                    width = found.shape[1]
                    return found
            return image.new_zeros(len(image), width)

        return embed


def check_embeddings(found: Tensor, count: int, width: int = 0) -> Tensor:
    """Return embeddings as they are; refuse what is none.

    Args:
        found: what a judge gave.
        count: how many faces it was given.
        width: of the embeddings it gave before; 0 where there are none.

    Raises:
        ValueError: it is not `[B,D]`.
    """
    if found.ndim != 2 or len(found) != count or not found.shape[1] or (width and found.shape[1] != width):
        raise ValueError(
            f"embed gave {list(found.shape)} for {count} faces; give [{count}, {width or 'D'}], a row for each"
        )
    return found


def check_numbers(found: Tensor) -> Tensor:
    """Return embeddings as they are; refuse what is not finite. It waits for the device: once for all of them.

    Args:
        found: `[N,D]`.

    Raises:
        ValueError: some are NaN or infinite.
    """
    faces = int((~found.isfinite().all(1)).sum())
    if faces:  # a rank or a mean of these would be one of nothing
        raise ValueError(f"embed gave NaN or infinite values for {faces} of {len(found)} faces")
    return found


def in_a_line(error: Exception) -> str:
    """Return an error's kind and its words in one line.

    Args:
        error: what was raised.
    """
    words = " ".join(str(error).split())[:_LONGEST]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
