"""Many processes that align a set; they import neither torch nor Lightning, to start quickly."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

import cv2

from lightning_app.alignment.place import AlignOutcome, FaceFile, Placer, Rules
from lightning_app.distributed.parent import Bond, bond, end_with_parent

_CHUNK = 32  # images per message between processes
_WORTH = {
    True: 64,
    False: 512,
}  # images that are worth starting another process for, with a search or without
_placer: Placer | None = None  # of a worker process


def align_all(rules: Rules, jobs: Sequence[FaceFile], workers: int) -> Iterator[list[AlignOutcome]]:
    """Align images in processes of their own, a bounded number at a time.

    Args:
        rules: how.
        jobs: which.
        workers: processes, at most; few images take fewer. One works in this process.

    Yields:
        Outcomes of some images, in the order of the jobs.

    Raises:
        OSError: the aligned set cannot be written, or a process died.
        ValueError: a detector is needed and not installed.
    """
    search = any(job.points is None and job.refused is None for job in jobs)
    chunks = [jobs[at : at + _CHUNK] for at in range(0, len(jobs), _CHUNK)]
    workers = min(workers, -(-len(jobs) // _WORTH[search]))
    if workers <= 1:
        placer = Placer(rules, search)
        for chunk in chunks:
            yield [placer(job) for job in chunk]
        return
    # spawn: a fork would copy the locks of the progress bar's and torch's threads
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start, initargs=(rules, search, bond())
    )
    try:
        waiting: deque[Future[list[AlignOutcome]]] = deque()
        left = iter(chunks)
        for chunk in islice(left, 2 * workers):
            waiting.append(pool.submit(_align, chunk))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(_align, chunk) for chunk in islice(left, 1))
    except BrokenProcessPool as error:
        raise OSError(
            "a process that aligns images died, for want of memory perhaps; start again, with fewer --workers: what "
            "is done is kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(rules: Rules, search: bool, parent: Bond) -> None:
    global _placer
    end_with_parent(parent)  # workers whose parent was killed would wait for ever
    cv2.setNumThreads(1)  # as many processes as processors already
    _placer = Placer(rules, search)


def _align(jobs: Sequence[FaceFile]) -> list[AlignOutcome]:
    assert _placer is not None
    return [_placer(job) for job in jobs]
