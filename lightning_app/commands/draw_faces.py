"""`python main.py draw-faces`: draw folders of faces."""

from __future__ import annotations

from lightning_app.commands.parser import CommandParser, add_switches, command_parser, words
from lightning_app.studies.draw_faces import draw_faces


def build_parser() -> CommandParser:
    """Return the parser of `draw-faces`; its help comes from `draw_faces`'s docstring."""
    parser = command_parser(draw_faces, config=False)
    switches = add_switches(parser, draw_faces, "--pairs", "--overwrite", in_config=False)
    parser.add_argument("--output", type=str, required=True, metavar="DIR", help=words(draw_faces)["output"])
    parser.add_function_arguments(draw_faces, skip=switches | {"output"})
    return parser


def run(args: list[str]) -> None:
    """Run `draw-faces` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["--people", "25", "--images", "8", "--output", "faces"]`.

    Raises:
        FileExistsError, ValueError: see `draw_faces`.
    """
    draw_faces(**build_parser().parse_args(args).as_dict())
