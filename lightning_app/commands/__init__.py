"""The commands: their names and what they do, known without importing torch.

A command is a module of this package and a line in `COMMANDS`: `draw-mask` is `draw_mask.py`, which has `run(args)`,
called with what stands behind the name on the command line, and `build_parser()`, for `--help` and for tests. A package
of somebody else's adds one by an entry point of the group `faceveil.commands`: name = "their_module:run".
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from rich import get_console
from rich.table import Table

from lightning_app.core.printing import as_called

LIGHTNING = {
    "fit": "train a recogniser, verify it, and leave a run folder",
    "validate": "verify a checkpoint",
    "test": "the same on test data",
    "predict": "write the embedding of every image",
}
HELP = Path(__file__).with_name("help")  # a file for each command, see `lightning_app.commands.write_help`
PLUGGED = "faceveil.commands"  # group of entry points; they are looked for only where a name is none of ours
COMMANDS = {
    "ablate": "search masks, train recognisers under each, one table",
    "align": "bring faces to their fixed place, with a review list of what is doubtful",
    "audit": "prove that a released set gives away nothing but what its manifest says",
    "compare": "every method to desensitize: utility against privacy, in a table and a page",
    "desensitize": "write the set that may leave the house, with its manifest",
    "desensitize-image": "put one photo under a mask, and preview it",
    "draw-faces": "draw folders of faces, which are nobody's, to try every command on",
    "draw-mask": "draw one free-form mask, or a rectangle",
    "draw-mask-set": "draw a folder of masks in levels by mask ratio",
    "eigenfaces": "components and bounds of other people's faces, for noise on eigenfaces",
    "export": "ONNX and safetensors of a recogniser, with its mask and a model card",
    "federate": "several owners train one recogniser, their faces stay with them",
    "rank-scorers": "does a scorer's F rank masks as the accuracy after training does",
    "runs": "list the runs there are, with their state and main metrics",
    "search-mask": "find the mask that hides most at the least cost in recognition",
    "sweep-levels": "accuracy under random masks of each level",
}


def run(args: list[str]) -> None:
    """Run one command of the command line.

    Args:
        args: the command and its options.

    Raises:
        ValueError, OSError: something the user can mend, in one line.
        SystemExit: its help was shown.
    """
    if not args or args[0] in ("-h", "--help"):
        show_commands()
        return
    if args[0] in ("-V", "--version"):
        print(f"faceveil {importlib.import_module('lightning_app.core.version').version()}")
        return
    if len(args) == 2 and args[1] in ("-h", "--help") and show_help(args[0]):
        sys.exit(0)  # as a parser does
    # torch takes seconds to import: not before it is needed
    importlib.import_module("lightning_app.cli.surroundings").set_up()
    if args[0] in LIGHTNING or args[0].startswith("-"):
        importlib.import_module("lightning_app.cli.app").run_lightning(args)
    else:
        find_command(args[0])(args[1:])


def show_help(name: str) -> bool:
    """Print the help of a command as it was written down, for the parser takes seconds to make.

    Args:
        name: of the command.

    Returns:
        Whether it was written down; what is Lightning's, by the Lightning that is installed: its options are theirs.
    """
    if name not in LIGHTNING and name not in COMMANDS:
        return False
    try:
        head, _, text = (HELP / f"{name}.txt").read_text(encoding="utf-8").partition("\n")
    except OSError:  # not written down: the parser has it
        return False
    if name in LIGHTNING and head.split(",")[0] != help_head().split(",")[0]:
        return False
    print(as_called(text), end="")
    return True


def help_head() -> str:
    """Return what stands above a help that was written down: the versions of what makes it."""
    installed = importlib.import_module("importlib.metadata").version
    made_by = [f"{name} {installed(name)}" for name in ("lightning", "jsonargparse")]
    return f"# {', '.join(made_by)}, python {sys.version_info[0]}.{sys.version_info[1]}"


def find_command(name: str) -> Callable[[list[str]], None]:
    """Import what does a command.

    Args:
        name: a key of `COMMANDS`, or of an installed package's entry points.

    Raises:
        ValueError: there is no such command.
    """
    if name in COMMANDS:
        run: Callable[[list[str]], None] = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").run
        return run
    # a look at all installed packages takes long: not for a command of ours
    others = importlib.import_module("importlib.metadata").entry_points(group=PLUGGED)
    if name not in others.names:
        known = [*LIGHTNING, *COMMANDS, *sorted(others.names)]
        near = importlib.import_module("difflib").get_close_matches(name, known, 1)
        meant = f"did you mean {near[0]}? T" if near else "t"
        raise ValueError(f"no command {name!r}; {meant}here are: {', '.join(known)}")
    plugged: Callable[[list[str]], None] = others[name].load()
    return plugged


def show_commands() -> None:
    """Print every command with a line on what it does."""
    table = Table(
        "command",
        "what it does",
        box=None,
        title=as_called("python main.py COMMAND --help"),
        title_justify="left",
    )
    for name, words in (LIGHTNING | COMMANDS).items():
        table.add_row(name, words)
    get_console().print(table)
