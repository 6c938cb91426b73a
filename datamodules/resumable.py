"""A DataLoader that Lightning may stop and go on with anywhere."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from datamodules.workers import told_in_a_line
from lightning_app.core.batch import Batch


class ResumableLoader(DataLoader[Batch]):
    """A DataLoader that begins nothing, and reads nothing, before its first batch is asked for.

    Lightning asks for an iterator before it has restored its counters (a schedule that asks for the number of steps
    is enough), and PyTorch's own would send its workers for the wrong batches at once. There is nothing to
    remember in a checkpoint, the batches are a function of (seed, epoch, batch number); but Lightning warns of
    loaders that do not offer to, when a run goes on within an epoch.

    What a worker raises is told of in a line, see `datamodules.workers`.

    Attributes:
        before_epoch: called before the first batch of every epoch is read; puts the sampler in its place.
    """

    before_epoch: Callable[[], None] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # the base promises its own iterator class
        if self.before_epoch is not None:
            self.before_epoch()
        with told_in_a_line(self.num_workers):
            yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing."""


def ignore_signals(worker: int) -> None:
    """Leave the signals that ask a run to stop to the main process, which saves first (`worker_init_fn`).

    SLURM signals every process of a step: workers that died of it would end the run before its checkpoint.
    They end with the main process all the same, which PyTorch's workers watch.

    Args:
        worker: its number.
    """
    for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
        if hasattr(signal, name):  # Windows has no SIGUSR1
            signal.signal(getattr(signal, name), signal.SIG_IGN)
