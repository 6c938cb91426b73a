"""What the processes of `desensitize` do: read, veil, encode and write one batch after the other."""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.reader import BadImage, FaceReader, Pixels
from lightning_app.release.encode import encode_png
from lightning_app.release.finish import PARTS, stamp
from lightning_app.release.journal import Done
from lightning_app.release.plan import Plan
from lightning_app.release.veil import Veil

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl


class Work(Dataset[Any]):
    """The batches of a release; asked for one, it makes its files and tells what became of each image.

    Args:
        reader: the raw set.
        veil: the desensitizer.
        plan: names and order.
        output: the released folder.
        compression: zlib's level.
        batch_size: images of a batch.
    """

    def __init__(
        self, reader: FaceReader, veil: Veil, plan: Plan, output: Path, compression: int, batch_size: int
    ) -> None:
        self.reader, self.veil, self.plan, self.output = reader, veil, plan, output
        self.compression, self.batch_size = compression, batch_size
        self._labels = reader.labels.numpy()

    def __len__(self) -> int:
        """Count the batches."""
        return -(-len(self.plan) // self.batch_size)

    def places(self, batch: int) -> range:
        """Return the places of a batch's images in the plan."""
        return range(batch * self.batch_size, min((batch + 1) * self.batch_size, len(self.plan)))

    def __getitem__(self, batch: int) -> tuple[int, list[Done] | Exception]:
        """Make a batch's files; an error that the user can mend is returned, and travels to the parent whole."""
        try:
            return batch, self._make(batch)
        except (OSError, ValueError) as error:
            return batch, error

    def _make(self, batch: int) -> list[Done]:
        read = {place: self._read(place) for place in self.places(batch)}
        done = {place: found for place, found in read.items() if isinstance(found, Done)}
        pixels = {place: found for place, found in read.items() if not isinstance(found, Done)}
        if pixels:
            at = [self.plan.index(place) for place in pixels]
            numbers = [self.reader.number(index) for index in at]
            pictures = self.veil(list(pixels.values()), self._labels[at].tolist(), numbers)
            for place, picture in zip(pixels, pictures, strict=True):
                data = encode_png(picture, self.compression)
                self._put(self.plan.file(place), data)
                done[place] = Done(hashlib.sha256(data).hexdigest(), 1 if picture.ndim == 2 else 3)
        return [done[place] for place in self.places(batch)]

    def _read(self, place: int) -> Pixels | Done:
        try:
            return self.reader.read(self.plan.index(place))
        except BadImage as error:
            return Done(reason=error.reason, message=str(error))

    def _put(self, name: str, data: bytes) -> None:
        """Write a file so that it has its name, and its time stamp, only when it is whole."""
        path = os.path.join(self.output, name)
        # the process in its name: another one that a kill left alive for a moment never writes the same file
        part = os.path.join(self.output, PARTS, f"{os.getpid()}-{os.path.basename(name)}")
        with open(part, "wb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
        stamp(part)
        try:
            os.replace(part, path)
        except FileNotFoundError:  # the first image of its identity
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.replace(part, path)


def work_through(work: Work, batches: Sequence[int], workers: int) -> Iterator[tuple[int, list[Done]]]:
    """Make batches in processes of their own.

    Processes, not threads: a third of the time an image takes is Python's, which threads do one at a time.
    At most 2 · `workers` batches are under way; what they return are a few hundred bytes.

    Args:
        work: what is to be done.
        batches: which batches of it.
        workers: processes; 0 works in this one.

    Yields:
        The batch and what became of its images, in order.

    Raises:
        OSError, ValueError: what stopped a batch; or that a process was killed.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # where the work is done in this process; others begin with one
    loader: DataLoader[Any] = DataLoader(
        work, batch_size=None, sampler=batches, num_workers=workers, collate_fn=_as_it_is,
        prefetch_factor=2 if workers else None, worker_init_fn=_die_with_parent,
    )  # fmt: skip
    try:
        for batch, found in loader:
            if isinstance(found, Exception):
                raise found
            yield batch, found
    except RuntimeError as error:  # torch's word for a process that is gone
        if not workers or "DataLoader worker" not in str(error):
            raise
        raise OSError(
            f"a worker process was killed, for want of memory perhaps ({str(error).splitlines()[0]}); give fewer "
            "--workers and the same command again, it goes on from there"
        ) from error
    finally:
        torch.set_num_threads(threads)


def _as_it_is(item: Any) -> Any:
    return item


def _die_with_parent(worker: int) -> None:
    """Have Linux kill this process when its parent is killed; elsewhere torch's watchdog takes some seconds."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
