"""`python main.py runs`: the runs there are, how each stands, and their main metrics."""

from __future__ import annotations

import json
import sys

from lightning_app.commands.parser import CommandParser, command_parser, words
from lightning_app.core.printing import printable
from lightning_app.report.tables import print_table
from lightning_app.runs.listing import COLUMNS, SPARE, Run, list_runs, row_of


def runs(folder: str = "runs", as_json: bool = False) -> list[Run]:
    """List the runs there are: their state, date and main metrics, those that changed last first.

    A run trains (`running`), has `finished`, was `stopped` (Ctrl-C, SIGTERM), has `failed`, or was `killed`. Of folders
    without `state.json` those with `metrics.json` are `finished`, others `unfinished`.

    Args:
        folder: folder in which the folders of runs lie.
        as_json: print a list in JSON, with all that is known of each.

    Returns:
        The runs.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    found = list_runs(folder)
    if as_json:
        sys.stdout.write(
            json.dumps([run.as_dict() for run in found], indent=2) + "\n"
        )  # in ASCII: for a program
    elif found:
        rows = [row_of(run) for run in found]
        # a column of nothing takes room
        shown = [n for n in range(len(COLUMNS)) if any(row[n] for row in rows)]
        print_table(
            f"runs in {folder}",
            [[row[n] for n in shown] for row in rows],
            [COLUMNS[n] for n in shown],
            spare=SPARE,
        )
        for one in found:  # a sentence has no room in a cell
            if one.reason:
                print(f"{printable(one.name)}: {printable(one.reason)}")
    else:
        print(f"no runs in {folder} yet; `python main.py fit --config NAME.yaml` leaves one")
    return found


def build_parser() -> CommandParser:
    """Return the parser of `runs`; its help comes from `runs`'s docstring."""
    parser = command_parser(runs, config=False)
    of = words(runs)
    parser.add_argument("--runs", type=str, default="runs", metavar="FOLDER", help=of["folder"])
    parser.add_argument("--json", action="store_true", help=of["as_json"])
    return parser


def run(args: list[str]) -> None:
    """Run `runs` with the command line's arguments after the command's name.

    Args:
        args: such as `["--runs", "runs", "--json"]`.

    Raises:
        FileNotFoundError: see `runs`.
    """
    values = build_parser().parse_args(args)
    runs(values.runs, values.json)
