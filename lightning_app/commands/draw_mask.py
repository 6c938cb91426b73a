"""`python main.py draw-mask`: draw one mask, or make one of another."""

from __future__ import annotations

from lightning_app.commands.parser import CommandParser, add_switches, command_parser, words
from lightning_app.studies.draw_mask import draw_mask


def build_parser() -> CommandParser:
    """Return the parser of `draw-mask`; its help comes from `draw_mask`'s docstring."""
    parser = command_parser(draw_mask, config=False)
    # by hand what jsonargparse would want written as [0.74,0.78] and as `--overwrite true`
    of = words(draw_mask)
    parser.add_argument(
        "--ratio", type=float, nargs=2, default=[0.74, 0.78], metavar=("LOW", "HIGH"), help=of["ratio"]
    )
    parser.add_argument(
        "--rectangle", type=int, nargs=4, metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"), help=of["rectangle"]
    )
    switches = add_switches(parser, draw_mask, "--overwrite", "--symmetric", "--hole-free", in_config=False)
    parser.add_function_arguments(draw_mask, skip=switches | {"ratio", "rectangle"})
    return parser


def run(args: list[str]) -> None:
    """Run `draw-mask` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["--ratio", "0.74", "0.78", "--size", "224"]`.

    Raises:
        FileExistsError: see `draw_mask`.
        ValueError: see `draw_mask`.
    """
    parser = build_parser()
    values = parser.parse_args(args).as_dict()
    low, high = values.pop("ratio")
    box = values.pop("rectangle")
    draw_mask(ratio=(low, high), rectangle=None if box is None else tuple(box), **values)
