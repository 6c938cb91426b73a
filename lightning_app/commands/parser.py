"""What the parsers of the commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from lightning_app.cli.command_parser import CommandParser
from lightning_app.cli.configs import FindConfig
from lightning_app.core.files import write_atomically

__all__ = ["CommandParser", "add_trust", "command_parser", "name_run", "parsed", "write_run_config"]


def command_parser(command: Callable[..., object], *, config: bool = True) -> CommandParser:
    """Begin the parser of a command: its name and first words come from the function.

    Args:
        command: the function that does it, `search_mask` for `search-mask`.
        config: whether it takes `--config`, with bare names of shipped configs; given again, a later one wins.
    """
    name = command.__name__.replace("_", "-")
    parser = CommandParser(prog=f"main.py {name}", description=(command.__doc__ or "").splitlines()[0])
    if config:
        parser.add_argument(
            "-c", "--config", action=FindConfig,
            help="Config file, or the bare name of one in configs/; repeatable.",
        )  # fmt: skip
    return parser


def add_trust(parser: CommandParser) -> None:
    """Add `--trust CLASS_PATH`, repeatable: classes that files beside a checkpoint may name, beside our own.

    Args:
        parser: of a command that reads somebody else's run folder.
    """
    parser.add_argument(
        "--trust", action="append", default=[], metavar="CLASS_PATH",
        help="Import this class where a file beside a checkpoint names it: its code runs. Repeatable.",
    )  # fmt: skip


def parsed(parser: CommandParser, args: list[str]) -> dict[str, Any]:
    """Read a command line, make the objects it describes, and leave the list of config files out.

    Args:
        parser: of the command.
        args: what stands behind the command's name.

    Raises:
        ValueError, OSError: the command line or a config cannot be used.
    """
    values: dict[str, Any] = parser.instantiate(parser.parse_args(args)).as_dict()
    values.pop("config", None)
    return values


def write_run_config(parser: CommandParser, config: Namespace) -> None:
    """Write a run's `config.yaml`, with which the command does the same again.

    Args:
        parser: of the command.
        config: parsed arguments with `runs`, `name` and `overwrite`; changed.
    """
    config.overwrite = False  # a saved config must not replace a run unasked
    write_atomically(Path(config.runs) / config.name / "config.yaml", parser.dump(config))


def name_run(config: Namespace, command: str) -> Namespace:
    """Name a run after its first config file, where it was given no name; the list of files is taken out.

    Args:
        config: parsed arguments with `config` and `name`; changed.
        command: the name where there is no config file.
    """
    files = [str(file) for file in config.pop("config") or []]
    config.name = config.name or (Path(files[0]).stem if files else command)
    return config
