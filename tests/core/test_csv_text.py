"""What a spreadsheet, a browser and a reader of Markdown make of names that somebody else chose."""

from __future__ import annotations

import csv
import io
import random
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from lightning_app.alignment.landmarks import LandmarkFile
from lightning_app.alignment.place import AlignOutcome
from lightning_app.alignment.review import review_csv
from lightning_app.core.csv_text import csv_table, csv_text, escaped, read_csv_table, unescaped
from lightning_app.export.card import code, plain_text
from lightning_app.release.write.desensitize import _write_csv
from lightning_app.report.figures import rendered
from lightning_app.runs.csv_log import CSVLog

FORMULAS = [
    "=1+1",
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    " =1",
    "＝1",
    "-",
    "=",
    "--1",
    "-x/y.png",
]
# where another separator than the comma would begin a cell, and behind what a spreadsheet passes over
WITHIN = {
    "\t=1": "'\t'=1", "\r=1": "'\r'=1", "\n=1": "'\n'=1", "\tx": "'\tx", "a;=1+1": "a;'=1+1", "a; =1": "a;' =1",
    'a;"=1': "a;'\"=1", "a\t@x": "a\t'@x", "a|-x": "a|'-x", "a\n+x": "a\n'+x", "a\r=1": "a\r'=1", ";=1;-2": ";'=1;'-2",
    '"=1': "'\"=1", "\u200d=1": "'\u200d=1", "\u3164=1": "'\u3164=1", "\u0301=1": "'\u0301=1", "\xa0=1": "'\xa0=1",
    "﹦1": "'﹦1",
}  # fmt: skip
# what a terminal or an editor would obey
OBEYED = {
    "\ufeff=1": "\\ufeff=1", "\x00=1": "\\x00=1", "\u200b=1": "\\u200b=1", "a\x1b[2Jb": "a\\x1b[2Jb",
    "a\u202eb": "a\\u202eb", "\u2066a": "\\u2066a", "a\x9b2J": "a\\x9b2J", "a\x7f": "a\\x7f", "a\udc9b": "a\\udc9b",
    "a\x85b\u2028c": "a\\x85b\\u2028c", "a\\b\x1b": "a\\\\b\\x1b", "a\\x1bc": "a\\\\x1bc", "\U000e0041": "\\U000e0041",
}  # fmt: skip
PLAIN = [
    "-0.5",
    "+1e-3",
    "-inf",
    "+12",
    ".5",
    "a=b",
    "it's",
    "'quoted'",
    "",
    "'",
    "x\ny",
    'a"b,c',
    "ann/1.png",
    "C:\\x41\\u1234",
    "C:\\Users\\ann",
    "\\Uffffffff",
    "a\u200cb",
    "Andr\udce9",
    "x;y",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_text_that_begins_a_formula_is_marked_as_text(text: str) -> None:
    assert escaped(text) == f"'{text}"
    assert unescaped(f"'{text}") == text
    assert unescaped(str(escaped(f"'{text}"))) == f"'{text}"


@pytest.mark.parametrize("text", [*WITHIN, *OBEYED])
def test_nothing_begins_a_formula_or_is_obeyed_anywhere_in_a_cell(text: str) -> None:
    assert escaped(text) == (WITHIN | OBEYED)[text]
    assert unescaped((WITHIN | OBEYED)[text]) == text
    for once in ((WITHIN | OBEYED)[text], f"'{text}", f"{text};{text}"):
        assert unescaped(str(escaped(once))) == once


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_no_cell_is_a_formula_whatever_separates_them(separator: str) -> None:
    names = [*FORMULAS, *WITHIN, *OBEYED]
    table = csv_text(
        [["file", name, 0.5] for name in names] + [[Path(name), "x"] for name in names if "\0" not in name]
    )
    cells = [cell for row in csv.reader(io.StringIO(table, newline=""), delimiter=separator) for cell in row]
    cells += [cell for line in table.splitlines() for cell in line.split(separator)]  # quotes not honoured
    passed_over = re.compile('^["\\s\u200b\u200d\ufeff\u3164\u0301\\0]*')
    begins = {passed_over.sub("", cell)[:1] for cell in cells if cell != "-0.5"}
    assert not begins & {*"=+-@＝＋－＠﹦"}
    assert not {*table} & {*"\x1b\u202e\u2066\x9b\x7f\x00\ufeff"}
    assert b"\x9b" not in table.encode("utf-8", "surrogateescape")


def test_any_text_is_read_back_as_it_was() -> None:
    signs = "=+-@'\";|\t\r\n\\x1bu20e\x1b\u202e\u200b\u200d\0 \ufeff,\udce9"
    drawn = random.Random(0)
    for _ in range(3000):
        text = "".join(drawn.choices(signs, k=drawn.randrange(10)))
        assert unescaped(str(escaped(text))) == text


@pytest.mark.parametrize("value", [*PLAIN, -0.5, 3, None])
def test_all_else_stays_as_it_is(value: object) -> None:
    assert escaped(value) == value
    if isinstance(value, str):
        assert unescaped(value) == value


def test_what_is_written_reads_back_equal() -> None:
    keys = ["=key", "name", "value"]
    rows = [
        {"=key": a, "name": b, "value": str(i)} for i, (a, b) in enumerate(zip(FORMULAS, PLAIN, strict=False))
    ]
    text = csv_table(keys, rows)
    assert list(read_csv_table(io.StringIO(text, newline=""))) == rows
    cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
    numbers = ("", "-0.5", "+1e-3", "-inf", "+12")
    assert not [cell for cell in cells if cell not in numbers and cell[0] in "=+-@\t\r"]
    assert csv_text([[0.1, None, -2]]) == "0.1,,-2\n"
    with pytest.raises(ValueError, match="no columns for b"):
        csv_table(["a"], [{"b": 1}])


def test_the_tables_of_names_hold_no_formula(tmp_path: Path) -> None:
    name = "=HYPERLINK(A1)/x.png"
    _write_csv(tmp_path / "refused.csv", ("file", "reason", "message"), [(name, "truncated", f"{name}: no")])
    assert (tmp_path / "refused.csv").read_text().splitlines()[1] == f"'{name},truncated,'{name}: no"
    listed = review_csv([AlignOutcome(name, name, "", "no face")]).decode()
    assert listed.splitlines()[1].startswith(f"'{name},")
    # the owner copies the name into the list of corrections
    (tmp_path / "mended.csv").write_text(f"'{name}{', 1' * 10}\n")
    assert LandmarkFile(tmp_path / "mended.csv").names == [name]


def test_figures_under_a_name_that_is_a_formula(tmp_path: Path) -> None:
    log = CSVLog(tmp_path)
    log.log_metrics({"=set/accuracy": -0.5}, 1)
    log.save()
    log.log_metrics({"=set/accuracy": -0.25, "loss": -1.5}, 2)
    log.save()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open(newline="")))
    assert [row["'=set/accuracy"] for row in rows] == ["-0.5", "-0.25"]  # escaped once, not twice
    assert [row["loss"] for row in rows] == ["", "-1.5"]


@pytest.mark.parametrize("name", ["$x$", "$\\frac{$", "a $ b $ c_{"])
def test_a_name_with_dollars_is_no_formula_in_a_figure(name: str) -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1], [1], label=name)
    axes.set_title(name)
    axes.legend()
    assert rendered(figure).size[0] > 100


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("a\n\n# b", "a # b"),
        ("# b", "\\# b"),
        ("- b", "\\- b"),
        ("---", "\\---"),
        ("1. b", "1\\. b"),
        ("a | b", "a \\| b"),
        ("![x](http://evil)", "!\\[x\\](http://evil)"),
        ("`x` *y* _z_ ~q~", "\\`x\\` \\*y\\* \\_z\\_ \\~q\\~"),
        ("a&lt;b", "a&amp;lt;b"),
        ("a\x1b[2Jb\u202ec", "a \\[2Jb c"),
        ("CC-BY-4.0", "CC-BY-4.0"),
        ("2.14.1", "2.14.1"),
    ],
)
def test_markdown_shows_text_letter_by_letter(text: str, shown: str) -> None:
    assert plain_text(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x", "`x`"),
        ("a`b", "``a`b``"),
        ("`", "`` ` ``"),
        ("a|b\n<c>", "`a\\|b <c>`"),
    ],
)
def test_code_spans_hold_anything(text: str, shown: str) -> None:
    assert code(text) == shown
