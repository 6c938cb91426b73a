"""What a spreadsheet, a browser and a reader of Markdown make of names that somebody else chose."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from lightning_app.alignment.landmarks import LandmarkFile
from lightning_app.alignment.place import Outcome
from lightning_app.alignment.review import review_csv
from lightning_app.commands.desensitize import _write_csv
from lightning_app.csv_log import CSVLog
from lightning_app.csv_text import csv_table, csv_text, escaped, read_csv_table, unescaped
from lightning_app.export.card import code, plain_text
from lightning_app.report.figures import rendered

FORMULAS = [
    "=1+1",
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    " =1",
    "＝1",
    "-",
    "=",
    "--1",
    "-x/y.png",
]
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
]


@pytest.mark.parametrize("text", FORMULAS)
def test_text_that_begins_a_formula_is_marked_as_text(text: str) -> None:
    assert escaped(text) == f"'{text}"
    assert unescaped(f"'{text}") == text
    assert unescaped(str(escaped(f"'{text}"))) == f"'{text}"


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
    listed = review_csv([Outcome(name, name, "", "no face")]).decode()
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
