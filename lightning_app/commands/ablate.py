"""`python main.py ablate`: the same recognisers under several masks or settings, run after run, into one table."""

from __future__ import annotations

from lightning_app.commands.parser import CommandParser, command_parser, parsed
from lightning_app.studies.ablate import System, Variant, ablate


def build_parser() -> CommandParser:
    """Return the parser of `ablate`; its help comes from the docstring of the study."""
    parser = command_parser(ablate)
    parser.add_function_arguments(ablate)
    return parser


def run(args: list[str]) -> None:
    """Run `ablate` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["--config", "table8.yaml"]`.

    Raises:
        ValueError, OSError: see `lightning_app.studies.ablate.ablate`.
    """
    values = parsed(build_parser(), args)
    for key, kind in (("variants", Variant), ("systems", System)):
        values[key] = {k: v if isinstance(v, kind) else kind(**v) for k, v in values[key].items()}
    ablate(**values)
