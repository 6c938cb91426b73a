"""`python main.py audit RELEASED_DIR`: proof that nothing under the mask left, nor a name, nor anything else."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence

from lightning_app.commands.parser import CommandParser, command_parser
from lightning_app.studies.audit import audit


def build_parser() -> CommandParser:
    """Return the parser of `audit`; its help comes from `audit`'s docstring."""
    parser = command_parser(audit, config=False)
    parser.add_argument("released", type=str, metavar="RELEASED_DIR", help="the released folder.")
    parser.add_argument("--json", type=str | None, default=None, metavar="PATH",
                        help="where to write all findings, notes and counts as JSON.")  # fmt: skip
    parser.add_argument("--all", action="store_true", help="release all images again, not a sample.")
    parser.add_argument("--mask-hash", "--mask_hash", type=str | None, default=None, metavar="HEX",
                        help="of the mask that was agreed on, as `mask_hash` in a mask's JSON.")  # fmt: skip
    parser.add_argument("--min-mask-ratio", "--min_mask_ratio", type=float | None, default=None, metavar="SHARE",
                        help="share of the pixels that must be hidden at least; by default 0.1.")  # fmt: skip
    parser.add_argument("--ignore-times", action="store_true",
                        help="do not check time stamps: a copy made without keeping them has others.")  # fmt: skip
    parser.add_argument("--accept-interference", "--accept_interference", action="store_true",
                        help="that masks depend on what they hide (kind free) was agreed on.")  # fmt: skip
    parser.add_argument("-c", "--config", type=str | None, default=None,
                        help="the config of `desensitize`: its reader reads the raw set, its desensitizer must be the "
                        "release's; --reader… and --desensitizer… override it.")  # fmt: skip
    parser.add_argument("--public-key", type=str | None, default=None, metavar="PEM",
                        help="the owner's public key: the release must be signed by it.")  # fmt: skip
    parser.add_function_arguments(
        audit,
        skip={
            "released", "json_path", "ignore_times", "config", "public_key", "compare_all", "mask_hash",
            "min_mask_ratio", "overrides", "accept_interference",
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
