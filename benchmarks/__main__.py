"""Run every benchmark of this package, or those named, and print one table.

One that fails is named below the table and makes the exit code 1; the others are measured all the same.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import benchmarks
from benchmarks.timing import Row
from lightning_app.core.files import write_atomically


def found() -> dict[str, ModuleType]:
    """Return the modules of the package that have a `measure`, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in names if name != "__main__"}
    return {name: module for name, module in modules.items() if hasattr(module, "measure")}


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="medians of interleaved runs; ratio = ours ÷ peer (smallest – largest)")
    table.add_column("what")
    for column in ("ours, s", "peer, s", "ratio", "bound"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("note")
    for row in rows:
        colour = "green" if row.ratio <= row.bound else "red"
        table.add_row(
            row.name,
            f"{row.ours_s:.4g}",
            f"{row.peer_s:.4g}",
            f"[{colour}]{row.ratio:.3f}[/] ({row.low:.3f} – {row.high:.3f})",
            f"≤ {row.bound:g}",
            row.note,
        )
    return table


def main(args: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, print the table.

    Args:
        args: of the command line; those of the process by default.

    Returns:
        The exit code: 1 where a benchmark failed.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="modules of benchmarks/ to run; all where none is named")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the rows here")
    parser.add_argument(
        "--repeats", type=int, help="timed runs of each; each module's own number if left out"
    )
    options = parser.parse_args(args)
    there = found()
    if unknown := [name for name in options.names if name not in there]:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are: {', '.join(there)}")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"--json {options.json}: its folder does not exist")
    if options.repeats is not None and options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: give at least 1")
    given = {} if options.repeats is None else {"repeats": options.repeats}
    console = Console()
    rows: list[Row] = []
    failed: dict[str, str] = {}
    for name in options.names or there:
        begun = time.monotonic()
        with console.status(f"measuring {name} …"):
            try:
                rows += there[name].measure(**given)
            except KeyboardInterrupt:  # what is measured is shown
                failed[name] = "interrupted, and what comes after it was not measured"
                break
            except Exception as error:  # the others are measured all the same
                traceback.print_exc()
                failed[name] = f"{type(error).__name__}: {str(error).strip() or 'says no more'}".splitlines()[
                    0
                ]
        console.print(f"{name}: {time.monotonic() - begun:.0f} s")
    if rows:
        console.print(_table(rows))
    for name, words in failed.items():
        console.print(f"[red]failed:[/] {name}: {escape(words)}", soft_wrap=True)
    if options.json:
        content = json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False)
        write_atomically(options.json, content + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
