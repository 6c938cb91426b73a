"""Worker processes for tests of several ranks."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor


def pool(workers: int) -> ProcessPoolExecutor:
    """Give processes that are forked from one server for all tests, which imports torch and Lightning once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.ddp_ranks", "tests.metrics.test_metric_classes"])
    return ProcessPoolExecutor(workers, mp_context=context)
