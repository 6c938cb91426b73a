"""A DataLoader that knows how long it was waited for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from datamodules.resumable import ResumableLoader
from lightning_app.core.batch import Batch


class TimedLoader(ResumableLoader):
    """A DataLoader that counts the time its batches were waited for.

    Attributes:
        waited: seconds spent in getting the next batch, over all its life; with workers, only what they were late.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.waited = 0.0
        super().__init__(*args, **kwargs)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # the base promises its own iterator class
        return self._timed(super().__iter__())

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            begun = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - begun
            yield batch
