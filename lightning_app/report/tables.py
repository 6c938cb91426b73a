"""Tables on the console and flat JSON on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import SupportsFloat, TypeAlias

from rich import get_console
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement as RichMeasurement
from rich.table import Table
from rich.text import Text

from lightning_app.core.files import write_atomically
from lightning_app.core.foreign import read_json
from lightning_app.core.log_keys import read
from lightning_app.core.measurement import Measurement
from lightning_app.core.printing import printable, safe_output
from lightning_app.core.progress import hms

Scalar: TypeAlias = float | int | bool | str | None


def print_table(
    title: str,
    rows: Sequence[Sequence[object]],
    columns: Sequence[str],
    *,
    console: Console | None = None,
    spare: Sequence[str] = (),
) -> None:
    """Print a table; the first column is aligned to the left, the others to the right.

    What cannot be shown, for want of a sign or of a place to write to, is no error. Into a file or a pipe the table
    goes as wide as it is.

    Args:
        title: the line above it.
        rows: one sequence of cells per row; a cell is printed with `str`, floats with four digits.
        columns: the head, one name per cell of a row.
        console: where to; None is rich's global console.
        spare: columns that a terminal too narrow for all goes without, the least needed first.

    Raises:
        ValueError: a row has another number of cells than there are columns.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(
                f"rows: {list(row)} has {len(row)} cells for {len(columns)} columns {list(columns)}"
            )
    console = console or get_console()
    shown, left_out = list(columns), [name for name in spare if name in columns]
    table, needed = _table(title, rows, columns, shown, console)
    while console.is_terminal and needed > console.width and left_out:
        shown.remove(left_out.pop(0))
        table, needed = _table(title, rows, columns, shown, console)
    with safe_output(), _wide(console, needed):
        console.print(table)
        if len(shown) < len(columns):
            missing = ", ".join(name for name in columns if name not in shown)
            console.print(
                Text(printable(f"no room for: {missing}; widen the terminal, or print into a file"))
            )


@contextmanager
def _wide(console: Console, needed: int) -> Iterator[None]:
    """Give a console that is no terminal the width that a table needs."""
    before = console.width
    if not console.is_terminal:
        console.width = max(before, needed)
    try:
        yield
    finally:
        if not console.is_terminal:
            console.width = before


def _table(
    title: str,
    rows: Sequence[Sequence[object]],
    columns: Sequence[str],
    shown: Sequence[str],
    console: Console,
) -> tuple[Table, int]:
    """Return a table of some columns, and how wide it is with no cell broken."""
    table = Table(title=Text(printable(title), style="bold"), title_justify="left", box=SIMPLE_HEAD)
    for number, name in enumerate(columns):
        if name in shown:
            table.add_column(Text(printable(name)), justify="right" if number else "left", overflow="fold")
    for row in rows:
        # Text, so that a square bracket in a cell is not read as rich's mark-up
        cells = zip(columns, row, strict=True)
        table.add_row(*(Text(_shown(cell)) for name, cell in cells if name in shown))
    return table, RichMeasurement.get(console, console.options.update(width=10_000), table).maximum


def _shown(cell: object) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else printable(cell, keep="\n")


def rows_of(metrics: Mapping[str, float], known: Iterable[Measurement] = ()) -> list[list[str]]:
    """Make the table's rows of flat metrics: a metric, its spread and its interval share a row.

    Of the verification's situations 2 and 3 the table shows the accuracy; `metrics.json` has the rest.

    Args:
        metrics: log key → value.
        known: measurements made where the numbers were born, see `lightning_app.core.log_keys.read`.

    Returns:
        Rows of (name, value as text).
    """
    return [[one.label, text_of(one)] for one in read(metrics, known) if one.label]


def text_of(one: Measurement) -> str:
    """Write a measurement as tables show it: value ± spread  [low, high].

    Args:
        one: the measurement.
    """
    if not math.isfinite(one.value):
        text = "∞" if one.value > 0 else "n/a"
    elif one.form == "time":
        text = f"{hms(one.value)} ({one.value:.1f} s)"
    else:
        text = f"{one.value:{one.form}}"
    text += "" if one.std is None else f" ± {one.std:.4f}"
    return text if one.low is None or one.high is None else f"{text}  [{one.low:.4f}, {one.high:.4f}]"


def write_metrics(
    path: str | Path, metrics: Mapping[str, SupportsFloat | str | None], *, merge: bool = False
) -> dict[str, Scalar]:
    """Write metrics as one flat, sorted, strict JSON object, atomically.

    A metric that is NaN or infinite becomes null: strict JSON has neither.

    Args:
        path: the file, usually `runs/<name>/metrics.json`.
        metrics: log keys and their values: numbers, 0-dimensional tensors or arrays, strings or None.
        merge: keep the keys that the file has and `metrics` lacks; a key in both takes the new value.

    Returns:
        What the file now holds.

    Raises:
        ValueError: a value is not a single metric, or the file to merge with is not a flat JSON object.
    """
    path = Path(path)
    written = read_metrics(path) if merge and path.exists() else {}
    written.update({key: _scalar(key, value) for key, value in metrics.items()})
    write_atomically(path, json.dumps(written, indent=2, sort_keys=True, allow_nan=False) + "\n")
    return written


def read_metrics(path: str | Path) -> dict[str, Scalar]:
    """Read what `write_metrics` wrote.

    Args:
        path: the JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a flat JSON object.
    """
    try:
        metrics = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; move it away and measure again") from error
    if not isinstance(metrics, dict) or any(isinstance(value, dict | list) for value in metrics.values()):
        raise ValueError(f"{path} is not a flat JSON object of metrics; move it away and measure again")
    return metrics


def _scalar(key: str, value: SupportsFloat | str | None) -> Scalar:
    if value is None or isinstance(value, bool | int | str):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"metrics[{key!r}] is {type(value).__name__}, not a single number: {error}"
        ) from error
    return number if math.isfinite(number) else None
