"""Which batch of a run this is, over all its resumes: what alternating steps and their cycle go by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_app.core.plain import is_count


class BatchCounter:
    """Count the batches that a run has learnt from; a checkpoint keeps the number.

    Lightning's `global_step` counts calls of optimisers: a batch on which two of them step counts twice. This counts
    once whatever steps, and once for all batches whose gradients are accumulated into a step.

    Attributes:
        done: batches so far.
    """

    def __init__(self) -> None:
        self.done = 0

    def count(self) -> None:
        """Add the batch that was just learnt from."""
        self.done += 1

    def place(self, cycle: int) -> int:
        """Return where in its cycle the batch under way is, 0 … cycle − 1.

        Args:
            cycle: batches of a cycle.
        """
        return self.done % cycle

    def state(self) -> dict[str, int]:
        """Return what a checkpoint keeps."""
        return {"batches": self.done}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint.

        Args:
            state: what `state` gave.

        Raises:
            ValueError: it holds no number of batches.
        """
        done = state.get("batches")
        if not is_count(done):
            raise ValueError(f"this checkpoint counts {done!r} batches: it is damaged, take an earlier one")
        assert isinstance(done, int)
        self.done = done
