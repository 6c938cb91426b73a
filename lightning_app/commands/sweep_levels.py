"""`python main.py sweep-levels`: accuracy of recognisers under random masks of each level (the paper's Table 1)."""

from __future__ import annotations

from lightning_app.commands.parser import (
    CommandParser,
    add_switches,
    add_trust,
    command_parser,
    name_run,
    write_run_config,
)
from lightning_app.models.known import trusting
from lightning_app.studies.sweep_levels import sweep_levels
from lightning_app.studies.sweep_report import print_sweep


def build_parser() -> CommandParser:
    """Return the parser of `sweep-levels`; its help comes from the docstring of the study."""
    parser = command_parser(sweep_levels)
    switches = add_switches(parser, sweep_levels, "--overwrite", in_config=False)
    add_trust(parser)
    parser.add_function_arguments(sweep_levels, skip=switches)
    return parser


def run(args: list[str]) -> None:
    """Run `sweep-levels` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["--config", "sweep_levels.yaml"]`.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: see `lightning_app.studies.sweep_levels.sweep_levels`.
    """
    parser = build_parser()
    config = name_run(parser.parse_args(args), "sweep_levels")
    with trusting(config.pop("trust")):
        swept = sweep_levels(**config.as_dict())
    print_sweep(swept)
    config.trust = []  # a saved config may trust nobody
    write_run_config(parser, config)
