"""Run every benchmark of this package, or those named, and print one table."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

import benchmarks
from benchmarks.timing import Row
from lightning_app.files import write_atomically


def _found() -> dict[str, Callable[..., list[Row]]]:
    """Return `measure` of each module of the package that has one, by module name."""
    names = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in names if name != "__main__"}
    return {name: module.measure for name, module in modules.items() if hasattr(module, "measure")}


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


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="modules of benchmarks/ to run; all where none is named")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the rows here")
    parser.add_argument(
        "--repeats", type=int, help="timed runs of each; each module's own number if left out"
    )
    options = parser.parse_args(args)
    found = _found()
    if unknown := [name for name in options.names if name not in found]:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are: {', '.join(found)}")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"--json {options.json}: its folder does not exist")
    if options.repeats is not None and options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: give at least 1")
    given = {} if options.repeats is None else {"repeats": options.repeats}
    console = Console()
    rows: list[Row] = []
    for name in options.names or found:
        with console.status(f"measuring {name} …"):
            rows += found[name](**given)
    console.print(_table(rows))
    if options.json:
        content = json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False)
        write_atomically(options.json, content + "\n")


if __name__ == "__main__":
    main()
