"""`python main.py desensitize`: a whole aligned image set to the released set that may leave the house."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

from jsonargparse import Namespace

from lightning_app.commands.parser import (
    CommandParser,
    add_switches,
    command_parser,
    name_run,
    words,
    write_run_config,
)
from lightning_app.masks import load_mask
from lightning_app.release.format.signing import make_signing_key
from lightning_app.release.write.desensitize import desensitize

log = logging.getLogger("faceveil")


def build_parser() -> CommandParser:
    """Return the parser of `desensitize`; its help comes from `desensitize`'s docstring."""
    parser = command_parser(desensitize)
    switches = add_switches(
        parser, desensitize, "--overwrite", "--allow_lossy_webp", "--accept-interference", "--mix_once",
        "--pseudonym_table",
    )  # fmt: skip
    of = words(desensitize)
    parser.add_argument(
        "--sign-key", "--sign_key", type=str | None, default=None, metavar="PEM", help=of["sign_key"]
    )
    parser.add_argument(
        "--make-sign-key", metavar="PATH", help="make a key pair, PATH and PATH.pub, and end."
    )
    parser.add_argument("--name", type=str | None, default=None, help=of["name"])
    parser.add_function_arguments(desensitize, skip=switches | {"name", "sign_key"})
    return parser


def run(args: list[str]) -> None:
    """Run `desensitize` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["--config", "desensitize.yaml", "--output", "released/faces"]`.

    Raises:
        ValueError, OSError: see `desensitize`.
    """
    if any(arg.split("=")[0] in ("--make-sign-key", "--make_sign_key") for arg in args):
        alone = CommandParser(prog="main.py desensitize")
        alone.add_argument("--make-sign-key", type=str, required=True, metavar="PATH")
        path = alone.parse_args(args).make_sign_key
        log.info("Signs releases: %s, keep it secret. Verifies them: %s.pub, fingerprint %s", path, path,
                 make_signing_key(path))  # fmt: skip
        return
    parser = build_parser()
    config = name_run(parser.parse_args(args), "desensitize")
    config.pop("make_sign_key")
    _check_mask(config)
    desensitize(**vars(parser.instantiate(config)))
    owner = Path(config.runs) / config.name
    key = owner / "pseudonyms.key" if config.key is None else config.key
    output = config.output
    write_run_config(parser, config)
    words = [output, "--config", owner / "config.yaml", "--key", key]
    words += ["--accept-interference"] if config.accept_interference else []
    # not by the log, which breaks lines: this one is to be copied
    print(f"Next: python main.py audit {shlex.join(map(str, words))}")


def _check_mask(config: Namespace) -> None:
    """Refuse a mask file that is not there while it is known how large it must be: the message says how to draw it."""
    mask, size = config.get("desensitizer.init_args.mask"), config.get("reader.init_args.size")
    if mask is not None and size is not None and not Path(mask).exists():
        load_mask(mask, size)
