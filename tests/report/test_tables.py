from __future__ import annotations

import io

import pytest
from rich.console import Console

from lightning_app.report.tables import print_table

ROWS = [["a_run_with_a_long_name_of_forty_letters_", "fit ResNetFSM", "finished", "lfw 0.8605", "0.7690"]]
COLUMNS = ["run", "what", "state", "accuracy", "mask ratio"]
WIDE = 40 + 13 + 8 + 10 + 10  # of the cells alone


def printed(width: int, terminal: bool, spare: tuple[str, ...] = ("what", "mask ratio")) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, color_system=None)
    print_table("runs", ROWS, COLUMNS, console=console, spare=spare)
    assert console.width == width
    return [line.rstrip() for line in file.getvalue().splitlines() if line.strip()]


def test_a_file_gets_the_table_as_wide_as_it_is() -> None:
    head, row = printed(30, terminal=False)[1], printed(30, terminal=False)[-1]
    assert head.split() == ["run", "what", "state", "accuracy", "mask", "ratio"]
    assert row.split() == " ".join(ROWS[0]).split()
    assert len(row) > WIDE


@pytest.mark.parametrize(
    ("width", "left_out"),
    [(WIDE + 20, []), (WIDE + 5, ["what"]), (WIDE - 10, ["what", "mask ratio"])],
)
def test_a_narrow_terminal_goes_without_the_columns_least_needed(width: int, left_out: list[str]) -> None:
    lines = printed(width, terminal=True)
    shown = [name for name in COLUMNS if name not in left_out]
    assert lines[1].split() == " ".join(shown).split()
    cells = [cell for name, cell in zip(COLUMNS, ROWS[0], strict=True) if name in shown]
    assert lines[3].split() == " ".join(cells).split()
    assert lines[4:] == (
        [f"no room for: {', '.join(left_out)}; widen the terminal, or print into a file"] if left_out else []
    )


def test_what_may_not_be_left_out_is_broken_into_lines() -> None:
    lines = printed(40, terminal=True, spare=())
    assert all(len(line) <= 40 for line in lines)
    assert len(lines) > 5


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has 1 cells for 2 columns \['a', 'b'\]"):
        print_table("runs", [["one"]], ["a", "b"])
