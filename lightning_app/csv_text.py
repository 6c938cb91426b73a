"""CSV that a spreadsheet opens without running anything: the one place that writes our tables.

A cell that begins with =, +, - or @ is a formula to a spreadsheet, and a file name may begin so. Such text gets an
apostrophe before it, the spreadsheet's own mark of text; numbers stay numbers.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

_END = "\r\n"
_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf|nan)")
# how a formula begins, in the wide forms of East Asian keyboards too; and how that looks escaped
_FORMULA = re.compile(r"'*\s*[=+\-@\t\r＝＋－＠]")


class _Lines(list[str]):
    """Takes what a CSV writer writes: a row at a time."""

    def write(self, line: str) -> None:
        self.append(line)


def csv_text(rows: Iterable[Sequence[object]], lineterminator: str = "\n") -> str:
    """Write rows as CSV.

    Args:
        rows: of cells; None becomes an empty one, floats are written so that they read back equal.
        lineterminator: of each row.
    """
    lines = _Lines()
    # so that a cell with either of the two is quoted; a name with \r would begin a row of its own otherwise
    csv.writer(lines, lineterminator=_END).writerows([escaped(cell) for cell in row] for row in rows)
    return "".join(f"{line.removesuffix(_END)}{lineterminator}" for line in lines)


def csv_table(keys: Sequence[str], rows: Iterable[Mapping[str, object]], lineterminator: str = "\n") -> str:
    """Write mappings as CSV, with a header; what a row lacks is empty.

    Args:
        keys: the columns.
        rows: key → cell; all its keys are columns.
        lineterminator: of each row.

    Raises:
        ValueError: a row has a key that is no column.
    """

    def lines() -> Iterator[Sequence[object]]:
        yield keys
        for row in rows:
            if foreign := row.keys() - {*keys}:
                raise ValueError(f"no columns for {', '.join(sorted(foreign))}")
            yield [row.get(key, "") for key in keys]

    return csv_text(lines(), lineterminator)


def read_csv_table(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Read what `csv_table` wrote, as it was before.

    Args:
        lines: of a file opened with `newline=""`.
    """
    reader = csv.reader(lines)
    keys = [unescaped(key) for key in next(reader, [])]
    for row in reader:
        yield dict(zip(keys, map(unescaped, row), strict=False))


def escaped(cell: object) -> object:
    """Put an apostrophe before text that a spreadsheet would take for a formula; leave all else as it is.

    Args:
        cell: text, a number or None.
    """
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def unescaped(cell: str) -> str:
    """Undo `escaped`.

    Args:
        cell: as a CSV reader gives it.
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
