"""Worker processes for tests of several ranks."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import ForkServerContext


def fork_server() -> ForkServerContext:
    """Return the context whose processes are forked from one server, which imports torch and Lightning once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.ddp_ranks", "tests.metrics.test_metric_classes"])
    return context


def pool(workers: int) -> ProcessPoolExecutor:
    """Return so many processes of that server."""
    return ProcessPoolExecutor(workers, mp_context=fork_server())
