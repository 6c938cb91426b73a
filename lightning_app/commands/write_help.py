"""`python -m lightning_app.commands.write_help`: write down every command's help, so that it is shown without torch.

To be given again when an option or its words change; a test says so. It runs in a process of its own: a help lists the
subclasses that are known, and others may have been imported elsewhere.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stdout, suppress
from unittest import mock

from lightning_app.cli.app import run_lightning
from lightning_app.commands import COMMANDS, HELP, LIGHTNING, find_command, help_head
from lightning_app.core.files import write_atomically

_WIDTH = "80"  # columns: what every terminal has


def help_of(name: str) -> str:
    """Make the help of a command anew, from its parser, as its file has it.

    Args:
        name: a key of `LIGHTNING` or `COMMANDS`.
    """
    shown = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": _WIDTH}), mock.patch.object(sys, "argv", ["main.py"]),
        redirect_stdout(shown), suppress(SystemExit),
    ):  # fmt: skip
        if name in LIGHTNING:
            run_lightning([name, "--help"])
        else:
            find_command(name)(["--help"])
    return f"{help_head()}\n{shown.getvalue()}"


def main(args: list[str]) -> int:
    """Write every command's help down, or with `--check` print whose file is another.

    Args:
        args: the command line.

    Returns:
        1 where a file is another, made by the versions that are installed; else 0.
    """
    different = 0
    for command in (*LIGHTNING, *COMMANDS):
        path, text = HELP / f"{command}.txt", help_of(command)
        if "--check" not in args:
            print(write_atomically(path, text))
        elif (written := path.read_text(encoding="utf-8") if path.is_file() else "") != text:
            same_makers = not written or written.startswith(f"{help_head()}\n")  # others word it otherwise
            print(path, "is another" if same_makers else f"was made by {written.splitlines()[0]}")
            different = max(different, int(same_makers))
    return different


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
