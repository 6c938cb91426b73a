"""The parser of every command that is not Lightning's own."""

from __future__ import annotations

from jsonargparse import ArgumentParser

from lightning_app.cli.nulls import NestedNulls
from lightning_app.cli.parse_error import OneReason


class CommandParser(OneReason, NestedNulls):
    """A parser whose errors are the line that says what is wrong, without screens of usage above it."""


def add_run_arguments(parser: ArgumentParser) -> None:
    """Add what every command has that leaves a run folder: its name, where it lies, and whether it is replaced.

    Args:
        parser: of the command.
    """
    parser.add_argument(
        "--name", type=str | None, default=None, help="Name of the run; by default the config's."
    )
    parser.add_argument("--runs", type=str, default="runs", help="Folder in which `<name>/` lies.")
    parser.add_argument("--overwrite", type=bool, nargs="?", const=True, default=False,
                        help="Replace the run that is in the folder.")  # fmt: skip
