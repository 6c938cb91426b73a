"""`python main.py audit RELEASED_DIR`: proof that nothing under the mask left, nor a name, nor anything else."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence

from lightning_app.commands.parser import CommandParser, add_switches, command_parser, words
from lightning_app.studies.audit import audit


def build_parser() -> CommandParser:
    """Return the parser of `audit`; its help comes from `audit`'s docstring."""
    parser = command_parser(audit, config=False)
    of = words(audit)
    parser.add_argument("released", type=str, metavar="RELEASED_DIR", help=of["released"])
    parser.add_argument("--json", type=str | None, default=None, metavar="PATH", help=of["json_path"])
    parser.add_argument("--all", action="store_true", help=of["compare_all"])
    parser.add_argument(
        "--mask-hash", "--mask_hash", type=str | None, default=None, metavar="HEX", help=of["mask_hash"]
    )
    parser.add_argument(
        "--min-mask-ratio", "--min_mask_ratio", type=float | None, default=None, metavar="SHARE",
        help=of["min_mask_ratio"],
    )  # fmt: skip
    switches = add_switches(parser, audit, "--ignore-times", "--accept-interference", in_config=False)
    parser.add_argument("-c", "--config", type=str | None, default=None, help=of["config"])
    parser.add_argument("--public-key", type=str | None, default=None, metavar="PEM", help=of["public_key"])
    parser.add_function_arguments(
        audit,
        skip=switches | {
            "released", "json_path", "config", "public_key", "compare_all", "mask_hash", "min_mask_ratio", "overrides",
        },
    )  # fmt: skip
    return parser


def run(args: list[str]) -> None:
    """Run `audit` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["released/lfw", "--raw", "data/lfw", "--key", "release.key"]`.

    Raises:
        SystemExit: with code 1, where there are findings.
        FileNotFoundError, ValueError: see `audit`.
    """
    own, overrides = _split_overrides(args)
    values = build_parser().parse_args(own).as_dict()
    found = audit(json_path=values.pop("json"), compare_all=values.pop("all"), overrides=overrides, **values)
    if found.findings:
        sys.exit(1)


def _split_overrides(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part a command line of `audit` from what overrides the config in it.

    Args:
        args: such as `["released/lfw", "--config", "mine.yaml", "--reader.init_args.root", "data/aligned"]`. Where the
            config is that of a `fit`, `--data.init_args.reader…` will do as well.

    Returns:
        The rest, and the overrides.
    """
    own, overrides = list[str](), list[str]()
    words = iter(args)
    for word in words:
        key, equals, _ = word.partition("=")
        if not key.startswith(("--reader", "--desensitizer", "--data.")):
            own.append(word)
            continue
        plain = word.removeprefix("--data.").removeprefix("init_args.")
        overrides.append(plain if plain.startswith("--") else f"--{plain}")
        if not equals:
            overrides.extend(itertools.islice(words, 1))
    return own, overrides
