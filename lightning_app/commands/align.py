"""`python main.py align`: an unaligned image set to an aligned one, with a review list of what is doubtful."""

from __future__ import annotations

from lightning_app.alignment.align import align
from lightning_app.commands.parser import (
    CommandParser,
    add_switches,
    command_parser,
    name_run,
    write_run_config,
)


def build_parser() -> CommandParser:
    """Return the parser of `align`; its help comes from `align`'s docstring."""
    parser = command_parser(align)
    parser.add_function_arguments(align, skip=add_switches(parser, align, "--overwrite", in_config=False))
    return parser


def run(args: list[str]) -> None:
    """Run `align` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["--config", "align.yaml"]`.

    Raises:
        FileNotFoundError, FileExistsError, ValueError, OSError: see `align`.
    """
    parser = build_parser()
    config = name_run(parser.parse_args(args), "align")
    align(**config.as_dict())
    write_run_config(parser, config)
