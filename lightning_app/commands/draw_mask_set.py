"""`python main.py draw-mask-set`: draw a folder of free-form masks, so many in each level of mask ratio."""

from __future__ import annotations

from lightning_app.commands.parser import CommandParser, add_switches, command_parser, words
from lightning_app.masks.draw_set import LEVEL_EDGES, draw_mask_set


def build_parser() -> CommandParser:
    """Return the parser of `draw-mask-set`; its help comes from `draw_mask_set`'s docstring."""
    parser = command_parser(draw_mask_set, config=False)
    # by hand what jsonargparse would want written as --per_level, [0.01,0.1] and `--overwrite true`
    of = words(draw_mask_set)
    parser.add_argument("--per-level", "--per_level", type=int, default=2000, help=of["per_level"])
    parser.add_argument(
        "--levels",
        type=float,
        nargs="+",
        default=list(LEVEL_EDGES),
        metavar="EDGE",
        help=of["levels"],
    )
    parser.add_argument(
        "--templates",
        type=str,
        nargs="+",
        default=[],
        metavar="PNG",
        help=of["templates"],
    )
    switches = add_switches(parser, draw_mask_set, "--overwrite", in_config=False)
    parser.add_function_arguments(draw_mask_set, skip=switches | {"per_level", "levels", "templates"})
    return parser


def run(args: list[str]) -> None:
    """Run `draw-mask-set` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["--output", "masks/levels", "--per-level", "2000"]`.

    Raises:
        FileExistsError: see `draw_mask_set`.
        ValueError: see `draw_mask_set`.
    """
    draw_mask_set(**build_parser().parse_args(args).as_dict())
