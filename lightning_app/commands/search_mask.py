"""`python main.py search-mask`: find one mask for the whole aligned set (Algorithm 1) and write it with its facts."""

from __future__ import annotations

from lightning_app.commands.parser import (
    CommandParser,
    add_switches,
    add_trust,
    command_parser,
    parsed,
    words,
)
from lightning_app.models.known import trusting
from lightning_app.studies.search_mask import search_mask
from lightning_app.studies.search_mask.report import print_search


def build_parser() -> CommandParser:
    """Return the parser of `search-mask`; its help comes from the docstring of the study."""
    parser = command_parser(search_mask)
    parser.add_argument(
        "--ratio",
        type=float,
        nargs=2,
        default=[0.76, 0.80],
        metavar=("LOW", "HIGH"),
        help=words(search_mask)["ratio"],
    )
    switches = add_switches(parser, search_mask, "--overwrite")
    add_trust(parser)
    parser.add_function_arguments(search_mask, skip=switches | {"ratio"})
    return parser


def run(args: list[str]) -> None:
    """Run `search-mask` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["--config", "search_mask.yaml", "--seed", "1"]`.

    Raises:
        ValueError, OSError: see `lightning_app.studies.search_mask.search_mask`.
    """
    values = parsed(build_parser(), args)
    low, high = values.pop("ratio")
    with trusting(values.pop("trust")):
        found = search_mask(ratio=(low, high), **values)
    print_search(found.folder, found.metrics, found.identities)
