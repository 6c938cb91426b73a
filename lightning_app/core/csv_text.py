r"""CSV that a spreadsheet opens without running anything: the one place that writes our tables.

A cell that begins with =, +, - or @ is a formula to a spreadsheet, and a file name may begin so. Such text gets an
apostrophe before it, the spreadsheet's own mark of text; so does the middle of a cell where another separator than the
comma would begin a new one. Characters that a terminal would obey are written as `\x1b`. Numbers stay numbers.

Source: OWASP, CSV Injection.
"""

from __future__ import annotations

import csv
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence

_END = "\r\n"
_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf|nan)")
# what a spreadsheet may pass over before a formula: quotes, blanks, and signs that take no room (joiners, fillers,
# combining marks that stand alone)
_BEFORE = (
    r"[\"' \xa0\u00ad\u0300-\u036f\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u202f\u205f-\u206f"
    r"\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0]*"
)
_SIGNS = r"=+\-@＝＋－＠﹢﹣﹦﹫−"  # in the wide and small forms of East Asian keyboards too
_BREAKS = r"\t\r\n"
_STARTS = rf"(?:^(?={{0}}{_BEFORE}[{_SIGNS}{_BREAKS}])|(?<=[;|{_BREAKS}])(?={{0}}{_BEFORE}[{_SIGNS}]))"
_FORMULA, _MARKED = re.compile(_STARTS.format("")), re.compile(_STARTS.format("'") + "'")
_CODE = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
_CODES = re.compile(rf"{_CODE.pattern}|\\\\")
_OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, marks of direction, half characters, ends of lines
_BYTES = (
    "\udca0",
    "\udcff",
)  # names that are no UTF-8 are written as the file system has them, but for controls
_KEPT = "\t\r\n\u200c\u200d"  # the last two are part of words in Persian and of pictographs


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
    r"""Put an apostrophe before text that a spreadsheet would take for a formula, wherever a cell may begin.

    Controls and marks of direction become `\x1b`, `\u202e`; a backslash is doubled in text where one of these stands.

    Args:
        cell: a number or None, which stay as they are; of anything else, its text.
    """
    if cell is None or isinstance(cell, int | float):
        return cell
    text = str(cell)
    if _has_code(text) or any(map(_is_obeyed, () if text.isprintable() else text)):
        text = "".join("\\\\" if sign == "\\" else _code(sign) for sign in text)
    return text if _NUMBER.fullmatch(text) else _FORMULA.sub("'", text)


def unescaped(cell: str) -> str:
    """Undo `escaped`.

    Args:
        cell: as a CSV reader gives it.
    """
    text = _MARKED.sub("", cell)
    return _CODES.sub(_sign, text) if _has_code(text) else text


def _is_obeyed(sign: str) -> bool:
    if sign in _KEPT or _BYTES[0] <= sign <= _BYTES[1]:
        return False
    return unicodedata.category(sign) in _OBEYED


def _has_code(text: str) -> bool:
    """Return whether text has what `escaped` makes of a character, as a path on Windows may by chance."""
    return any(len(sign := _sign(code)) == 1 and _is_obeyed(sign) for code in _CODE.finditer(text))


def _code(sign: str) -> str:
    if not _is_obeyed(sign):
        return sign
    return f"\\x{ord(sign):02x}" if ord(sign) < 256 else ascii(sign)[1:-1]


def _sign(code: re.Match[str]) -> str:
    if code[0] == "\\\\":
        return "\\"
    number = int(code[0][2:], 16)
    return chr(number) if number <= sys.maxunicode else code[0]
