"""`python main.py export`: a recogniser as ONNX and safetensors, with its mask and a model card."""

from __future__ import annotations

from lightning_app.cli.configs import find_config
from lightning_app.cli.yaml_file import read_config_file
from lightning_app.commands.parser import CommandParser, add_switches, add_trust, command_parser, words
from lightning_app.models.known import named_classes, trusting
from lightning_app.studies.export import export


def build_parser() -> CommandParser:
    """Return the parser of `export`; its help comes from `export`'s docstring."""
    parser = command_parser(export, config=False)
    of = words(export)
    parser.add_argument("-c", "--config", type=str | None, default=None, help=of["config"])
    switches = add_switches(parser, export, "--overwrite", "--head")
    parser.add_argument("--licence", "--license", type=str | None, default=None, help=of["licence"])
    add_trust(parser)
    parser.add_function_arguments(export, skip=switches | {"licence", "config"})
    return parser


def run(args: list[str]) -> None:
    """Run `export` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["--config", "fsm_layer3.yaml", "--ckpt_path", "last", "--output", "model.onnx"]`.

    Raises:
        ValueError, OSError: see `export`.
    """
    values = build_parser().parse_args(args).as_dict()
    config = values["config"]  # what stands in a config of the user's own is trusted
    named = set() if config is None else named_classes(read_config_file(find_config(config)))
    with trusting({*values.pop("trust"), *named}):
        export(**values)
