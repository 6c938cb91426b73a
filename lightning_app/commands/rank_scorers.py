"""`python main.py rank-scorers`: whether a scorer's F ranks masks as the accuracy after training does."""

from __future__ import annotations

from lightning_app.commands.parser import CommandParser, add_trust, command_parser, parsed
from lightning_app.models.known import trusting
from lightning_app.report import print_table
from lightning_app.studies.rank_scorers import rank_scorers


def build_parser() -> CommandParser:
    """Return the parser of `rank-scorers`; its help comes from the docstring of the study."""
    parser = command_parser(rank_scorers)
    add_trust(parser)
    parser.add_function_arguments(rank_scorers)
    return parser


def run(args: list[str]) -> None:
    """Run `rank-scorers` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["--config", "rank_scorers.yaml"]`.

    Raises:
        ValueError, OSError: see `lightning_app.studies.rank_scorers.rank_scorers`.
    """
    values = parsed(build_parser(), args)
    with trusting(values.pop("trust")):
        found = rank_scorers(**values)
    print_table(
        f"rank-scorers: Spearman's rho of −F and accuracy after training; see {found.picture}",
        found.rows,
        ["scorer", "system", "masks", "rho", "95 % interval"],
    )
