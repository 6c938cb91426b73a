"""`python main.py desensitize`: a whole aligned image set to the released set that may leave the house."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

from jsonargparse import Namespace

from lightning_app.commands.parser import CommandParser, command_parser, name_run, write_run_config
from lightning_app.masks import load_mask
from lightning_app.release.format.signing import make_signing_key
from lightning_app.release.write.desensitize import desensitize

log = logging.getLogger("faceveil")


def build_parser() -> CommandParser:
    """Return the parser of `desensitize`; its help comes from `desensitize`'s docstring."""
    parser = command_parser(desensitize)
    for flag, words in (
        ("--overwrite", "begin anew, and replace a release that is there."),
        (
            "--allow_lossy_webp",
            "also release WebP images that are coded with loss: no guard keeps hidden pixels out of "
            "visible ones there; they are refused otherwise.",
        ),
        (
            "--accept-interference",
            "also release images under masks that are made of what they hide (LearnedMask of kind free).",
        ),
        ("--mix_once", "mix images once for all; their labels then tell who is in each mix, and how much."),
        ("--pseudonym_table", "also write runs/<name>/pseudonyms.csv: file, pseudonym."),
    ):
        names = dict.fromkeys((flag, flag[:2] + flag[2:].replace("-", "_")))  # as a config writes it, too
        parser.add_argument(*names, type=bool, nargs="?", const=True, default=False, help=words)
    parser.add_argument("--sign-key", "--sign_key", type=str | None, default=None, metavar="PEM",
                        help="private Ed25519 key that signs the manifest.")  # fmt: skip
    parser.add_argument(
        "--make-sign-key", metavar="PATH", help="make a key pair, PATH and PATH.pub, and end."
    )
    parser.add_argument("--name", type=str | None, default=None,
                        help="of the owner's folder; by default the config's.")  # fmt: skip
    parser.add_function_arguments(
        desensitize,
        skip={
            "accept_interference",
            "allow_lossy_webp",
            "mix_once",
            "overwrite",
            "pseudonym_table",
            "name",
            "sign_key",
        },
    )
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
