"""The most memory that this process has held."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")  # of Linux
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.M)


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
