"""The most memory that this process has held, and how it gets it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")  # of Linux
_HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch looks at it when it first takes memory
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.M)


def use_huge_pages() -> None:
    """Let torch ask Linux for pages of 2 MB for large tensors, and the processes it starts likewise.

    A tensor above 32 MB, such as a batch of 63 channels, is given back when it is freed, and paged in anew in the next
    step: in pages of 4 kB that took a fifth of a training's time on a CPU. It counts where torch has not yet made a
    tensor. Who has set the variable, to 0 for one, is obeyed.
    """
    os.environ.setdefault(_HUGE_PAGES, "1")


def peak_memory() -> int | None:
    """Return the peak of this process's resident memory, in bytes; None where the system does not tell.

    `getrusage` will not do on Linux: a process begins there with the peak of the one that started it, so that a run of
    a study, or a benchmark's, would show what its parent held.
    """
    if _STATUS.exists():
        found = _PEAK.search(_STATUS.read_text(encoding="ascii", errors="replace"))
        return None if found is None else int(found[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource  # Windows has none

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
