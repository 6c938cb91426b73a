"""What the parsers of the commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docstring_parser import parse
from jsonargparse import Namespace

from lightning_app.cli.command_parser import CommandParser
from lightning_app.cli.configs import FindConfig
from lightning_app.core.files import write_atomically

__all__ = [
    "CommandParser", "add_switches", "add_trust", "command_parser", "name_run", "parsed", "words", "write_run_config",
]  # fmt: skip


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


def words(command: Callable[..., object]) -> dict[str, str]:
    """Return what the docstring of a function says of each argument, in one line each.

    For options whose form is given by hand: their help is the docstring's, as that of all others.

    Args:
        command: the function.
    """
    found = parse(inspect.getdoc(command) or "").params
    return {one.arg_name: " ".join((one.description or "").split()) for one in found}


def add_switches(
    parser: CommandParser, command: Callable[..., object], *flags: str, in_config: bool = True
) -> set[str | int]:
    """Add options that are on where they are given, without a value; their help is the docstring's.

    Args:
        parser: of the command.
        command: the function, with an argument of each option's name.
        flags: such as `--mix-once`, which may be written `--mix_once` too.
        in_config: whether a config file may have them; then they take a value as well (`--overwrite false`).

    Returns:
        The names of the arguments, for `skip`.
    """
    of = words(command)
    form: dict[str, Any] = (
        {"type": bool, "nargs": "?", "const": True, "default": False}
        if in_config
        else {"action": "store_true"}
    )
    names: set[str | int] = set()
    for flag in flags:
        name = flag.removeprefix("--").replace("-", "_")
        parser.add_argument(*dict.fromkeys((flag, f"--{name}")), dest=name, help=of[name], **form)
        names.add(name)
    return names


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
