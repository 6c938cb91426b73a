"""`python main.py desensitize-image`: one photo under a mask."""

from __future__ import annotations

from lightning_app.commands.parser import CommandParser, add_switches, command_parser, words
from lightning_app.studies.desensitize_image import desensitize_image


def build_parser() -> CommandParser:
    """Return the parser of `desensitize-image`; its help comes from its docstring."""
    parser = command_parser(desensitize_image)
    of = words(desensitize_image)
    for name in ("photo", "output"):
        parser.add_argument(name, type=str, help=of[name])
    switches = add_switches(
        parser, desensitize_image, "--align", "--resize", "--allow_lossy_webp", "--overwrite", in_config=False
    )
    parser.add_function_arguments(desensitize_image, skip=switches | {"photo", "output"})
    return parser


def run(args: list[str]) -> None:
    """Run `desensitize-image` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["photo.jpg", "out.png", "--mask", "masks/mine.png"]`.

    Raises:
        FileNotFoundError, FileExistsError, ValueError, OSError: see `desensitize_image`.
    """
    values = build_parser().parse_args(args).as_dict()
    values.pop("config", None)
    desensitize_image(**values)
