"""The progress bar of our commands, and how a time is written."""

from __future__ import annotations

from datetime import timedelta

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def progress_bar(share: bool = False, transient: bool = False) -> Progress:
    """Return a bar on rich's console: what is done, how much of how many, the time gone and the time left.

    A description is shown as it is, no mark-up is read in it.

    Args:
        share: show the share done in %, where the count says nothing to a user.
        transient: leave nothing behind.
    """
    done = TaskProgressColumn() if share else MofNCompleteColumn()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), done, TimeElapsedColumn())
    return Progress(*columns, TextColumn("left"), TimeRemainingColumn(), transient=transient)


def hms(seconds: float | None) -> str:
    """Write a time as h:mm:ss; dashes where nobody knows.

    Args:
        seconds: how long.
    """
    return "-:--:--" if seconds is None else str(timedelta(seconds=round(seconds)))
