"""What Weights & Biases is not told of the machine that trains, and of the folders on it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

# W&B's settings: by default it sends hostname, account, command line, program and folders, git's remote and commit, the
# installed packages, the hardware with its disks, and what is printed. Names with one _ are those of W&B before 0.19.
UNTOLD: dict[str, Any] = {
    "console": "off",  # what is printed names people: bad images by path, identities in both sets
    "host": "private",  # it stands in the run's own record, whatever the other settings say
    "disable_git": True,
    "save_code": False,
    "disable_code": True,
    "disable_job_creation": True,
    "x_disable_meta": True,
    "_disable_meta": True,
    "x_disable_machine_info": True,
    "_disable_machine_info": True,
    "x_disable_stats": True,
    "_disable_stats": True,
    "x_save_requirements": False,
    "_save_requirements": False,
}
_REPORTS = "WANDB_ERROR_REPORTING"  # traces of our process, to W&B's own developers


def no_error_reports() -> None:
    """Keep W&B from sending its developers traces of this process, unless the user's environment says otherwise.

    Call it before W&B is imported.
    """
    os.environ.setdefault(_REPORTS, "false")


def without_places(value: Any) -> Any:
    """Shorten every path in settings: to one relative to the working directory, or to its last part.

    Args:
        value: plain values, nested as they may be.

    Returns:
        The same; text that holds no path stays as it is.
    """
    if isinstance(value, Mapping):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_places(item) for item in value]
    if isinstance(value, os.PathLike):
        return _place(str(value))
    if not isinstance(value, str):
        return value
    option, equals, rest = value.partition("=") if value.startswith("-") else ("", "", value)
    return option + equals + _place(rest)


def _place(text: str) -> str:
    if "://" in text or "\n" in text:
        return text
    windows = PureWindowsPath(text)
    if windows.drive and windows.root:
        return windows.name
    path = PurePosixPath(text)
    if text.startswith("~") or ".." in path.parts:
        return path.name
    if not path.is_absolute():
        return text
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name
