"""What the processes of `desensitize` do: read, desensitize, encode and write one batch after the other."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from datamodules.readers.bad_images import BadImage
from datamodules.readers.base import FaceReader, Pixels
from lightning_app.core.png import encode_png
from lightning_app.core.threads import one_thread
from lightning_app.distributed.parent import Bond, bond, end_with_parent
from lightning_app.release.format.each_mask import encode_mask, mask_file
from lightning_app.release.write.desensitizing import PixelDesensitizer
from lightning_app.release.write.each import EachDesensitizer
from lightning_app.release.write.finish import FILE, PARTS, stamp
from lightning_app.release.write.journal import Done
from lightning_app.release.write.plan import ReleasePlan


class Work:
    """The batches of a release.

    Args:
        reader: the raw set.
        desensitize: the desensitizer; None where a subclass has another.
        plan: names and order.
        output: the released folder.
        compression: zlib's level.
        batch_size: images of a batch.
    """

    def __init__(
        self,
        reader: FaceReader,
        desensitize: PixelDesensitizer | EachDesensitizer | None,
        plan: ReleasePlan,
        output: Path,
        compression: int,
        batch_size: int,
    ) -> None:
        self.reader, self.desensitize, self.plan, self.output = reader, desensitize, plan, output
        self.compression, self.batch_size = compression, batch_size
        self._labels = reader.labels.numpy()
        self._folders: set[str] = set()  # made last: of images, and of their masks

    def __len__(self) -> int:
        """Count the batches."""
        return -(-len(self.plan) // self.batch_size)

    def places(self, batch: int) -> range:
        """Return the places of a batch's images in the plan."""
        return range(batch * self.batch_size, min((batch + 1) * self.batch_size, len(self.plan)))

    def make(self, batch: int) -> list[Done]:
        """Read, desensitize, encode and write the images of a batch; tell what became of each."""
        # looked at before they are read: one that changes meanwhile is made again
        sources = {place: self.source(place) for place in self.places(batch)}
        read = {place: self._read(place) for place in self.places(batch)}
        done = {place: found for place, found in read.items() if isinstance(found, Done)}
        pixels = {place: found for place, found in read.items() if not isinstance(found, Done)}
        if pixels:
            at = [self.plan.index(place) for place in pixels]
            numbers = [self.reader.number(index) for index in at]
            given = list(pixels.values()), self._labels[at].tolist(), numbers
            for place, picture, mask in zip(pixels, *self._made(*given), strict=True):
                data, digest = encode_png(picture, self.compression), ""
                if mask is not None:  # before the image: where that is, its mask is
                    beside = encode_mask(mask)
                    self._put(mask_file(self.plan.file(place)), [beside])
                    digest = hashlib.sha256(beside).hexdigest()
                self._put(self.plan.file(place), [data])
                channels = 1 if picture.ndim == 2 else 3
                done[place] = Done(hashlib.sha256(data).hexdigest(), channels, mask=digest)
        return [done[place]._replace(size=size, mtime_ns=mtime) for place, (size, mtime) in sources.items()]

    def _made(
        self, pixels: list[Pixels], labels: list[int], numbers: list[int]
    ) -> tuple[list[Pixels], list[Pixels | None]]:
        """Desensitize images: pictures, and the mask of each where it has one of its own."""
        assert self.desensitize is not None
        if isinstance(self.desensitize, EachDesensitizer):
            made = self.desensitize(pixels, labels, numbers)
            return [one.picture for one in made], [one.mask for one in made]
        pictures = self.desensitize(pixels, labels, numbers)
        return pictures, [None] * len(pictures)

    def source(self, place: int) -> tuple[int, int]:
        """Return length and time of the last change, in nanoseconds, of the file of an image; −1 where it has none."""
        try:
            facts = os.stat(self.reader.file(self.plan.index(place)))
        except OSError:  # a drawn face; or a file that is gone, as reading it says
            return -1, -1
        return facts.st_size, facts.st_mtime_ns

    def is_refused(self, place: int, reason: str) -> bool:
        """Return whether an image is still refused for the same reason.

        Args:
            place: of the image in the plan.
            reason: why it was refused.
        """
        found = self._read(place)
        return isinstance(found, Done) and found.reason == reason

    def _read(self, place: int) -> Pixels | Done:
        try:
            return self.reader.read(self.plan.index(place))
        except BadImage as error:
            return Done(reason=error.reason, message=str(error))

    def _put(self, name: str, parts: Iterable[bytes | memoryview]) -> None:
        """Write a file, part by part, so that it has its name, and its time stamp, only when it is whole."""
        path = os.path.join(self.output, name)
        # the process in its name: another one that a kill left alive for a moment never writes the same file
        part = os.path.join(self.output, PARTS, f"{os.getpid()}-{os.path.basename(name)}")
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            for data in parts:
                view = memoryview(data)
                while view:
                    view = view[os.write(handle, view) :]
            if os.name == "posix":
                os.fchmod(handle, FILE)
            stamp(handle)
        finally:
            os.close(handle)
        folder = os.path.dirname(path)
        if folder not in self._folders:  # images come identity after identity
            os.makedirs(folder, exist_ok=True)
            self._folders = {folder, *list(self._folders)[-1:]}
        os.replace(part, path)


def work_through(work: Work, batches: Sequence[int], workers: int) -> Iterator[tuple[int, list[Done]]]:
    """Make batches in processes of their own.

    Processes, not threads: a third of the time an image takes is Python's, which threads do one at a time.
    At most 4 · `workers` batches are under way; what they return are a few hundred bytes.

    Args:
        work: what is to be done.
        batches: which batches of it.
        workers: processes; 0 works in this one.

    Yields:
        A batch and what became of its images, as they are finished.

    Raises:
        OSError, ValueError: what stopped a batch; or that a process was killed.
    """
    if not workers:
        with one_thread():
            yield from ((batch, work.make(batch)) for batch in batches)
        return
    # forked, so that the raw set's index is shared and not sent; other systems fork no process with threads
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    with ProcessPoolExecutor(workers, context, _begin, (work, bond())) as pool:
        under_way: dict[Future[list[Done]], int] = {}
        try:
            for batch in batches:
                under_way[pool.submit(_make, batch)] = batch
                if len(under_way) >= 4 * workers:
                    yield from _finished(under_way)
            while under_way:
                yield from _finished(under_way)
        except BrokenProcessPool as error:
            raise OSError(
                "a worker process was killed, for want of memory perhaps; give fewer --workers and the same command "
                "again, it goes on from there"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _finished(under_way: dict[Future[list[Done]], int]) -> Iterator[tuple[int, list[Done]]]:
    """Wait for at least one batch; take out and yield those that are finished."""
    for future in wait(under_way, return_when=FIRST_COMPLETED).done:
        yield under_way.pop(future), future.result()


_work: Work | None = None  # of a process of the pool


def _begin(work: Work, parent: Bond) -> None:
    """Prepare a worker process; it ends with its parent, should that be killed."""
    end_with_parent(parent)
    global _work
    _work = work
    torch.set_num_threads(1)  # the processes are the parallel ones


def _make(batch: int) -> list[Done]:
    assert _work is not None, "_begin comes first"
    return _work.make(batch)
