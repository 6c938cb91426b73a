"""`python main.py eigenfaces`: components and bounds of other people's faces."""

from __future__ import annotations

from lightning_app.commands.parser import CommandParser, command_parser, parsed
from lightning_app.studies.eigenfaces import eigenfaces


def build_parser() -> CommandParser:
    """Return the parser of `eigenfaces`; its help comes from `eigenfaces`'s docstring."""
    parser = command_parser(eigenfaces)
    parser.add_function_arguments(eigenfaces)
    return parser


def run(args: list[str]) -> None:
    """Run `eigenfaces` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["--config", "lfwa_eigenfaces.yaml"]`.

    Raises:
        ValueError, OSError: see `eigenfaces`.
    """
    eigenfaces(**parsed(build_parser(), args))
