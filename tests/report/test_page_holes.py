"""What the page says of methods of which something is not known: attackers that failed, judges without a number."""

from __future__ import annotations

import csv
import io
import math
import re

import pytest

from lightning_app.core.csv_text import csv_text
from lightning_app.report.compare import RELEASED, Axis, hole_of, points_of, staircase
from lightning_app.report.compare_chart import compare_chart
from lightning_app.report.frontier import lines_of, paragraph
from lightning_app.report.html import page_data, render, state_table
from lightning_app.report.page_tables import method_table
from tests.report.many import ATTACKS, FELL, JUDGES, many, page_of, with_holes
from tests.report.test_html import Read


def test_what_is_not_the_last_word_is_said() -> None:
    why = {"method 1": {"attack 3": "its loss still falls"}, "method 2": {"U-Net": "its training failed"}}
    results = many(3)
    page = page_of(results, attacks=[*ATTACKS, "U-Net"], open=why)
    _, *rows = Read(render(page)).tables["methods"]
    assert [row[7] for row in rows] == ["90.0", "≥ 88.0", "≥ 86.0"]
    _, states = state_table(page)
    hole = next(row for row in states if row[1].text == "U-Net")
    assert (hole[0].text, hole[1].interval, {cell.text for cell in hole[2:]}) == (
        "method 2", "its training failed", {"–"},
    )  # fmt: skip
    assert "its training failed" in paragraph(page, "method 2")
    private = page_of(results, axis=Axis("dssim"), open=why)
    assert Read(render(private)).tables["methods"][2][7].startswith("≤ "), "of dSSIM less is seen more"


@pytest.mark.parametrize("measure", ["rank1", "dssim"])
def test_a_method_whose_attackers_failed_beats_nobody(measure: str) -> None:
    results, axis, judges = with_holes(), Axis(measure), list(JUDGES)
    for label in ("method 3", "method 4"):  # less seen is more dSSIM
        results[label] |= {key: 0.9 for key in results[label] if key.endswith("dssim")}
    points = points_of(results, ATTACKS, judges, axis, FELL)
    rest = {label: found for label, found in results.items() if label not in ("method 3", "method 4")}
    without = points_of(rest, ATTACKS, judges, axis, FELL)
    assert {p.label for p in points if p.front} == {p.label for p in without if p.front} != set()
    assert staircase(points, axis) == staircase(without, axis)
    holes = {p.label: p.hole for p in points if p.hole is not None}
    assert {label: (hole.failed, hole.attacked) for label, hole in holes.items()} == {
        "method 3": (tuple(ATTACKS), False), "method 4": (("attack 0",), True),
    }  # fmt: skip
    assert [p.front for p in points if p.label == "method 1"] == [measure == "rank1"], "its loss still falls"


def test_all_attackers_of_all_methods_may_fail() -> None:
    results = {"method 3": with_holes()["method 3"]}
    assert compare_chart(results, ATTACKS, list(JUDGES), Axis("rank1"), "t", FELL).size[0] > 1000
    page = page_of(results, open=FELL)
    assert "(not attacked)</text>" in render(page)
    assert not any(seen["front"] for seen in page_data(page)["methods"][0]["strongest"].values())


def test_a_linker_that_failed_is_missed_where_it_would_have_had_a_say() -> None:
    judges, failed = [*JUDGES, "linker"], {"method 1": {"linker": "its training failed"}}

    def holes(axis: Axis, open_: dict[str, dict[str, str]], **metrics: float) -> tuple[object, ...]:
        results = many(2)
        results["method 0"]["rank1/linker"] = 0.9
        results["method 1"] |= {key.replace("_", "/"): value for key, value in metrics.items()}
        hole = hole_of(results, "method 1", ATTACKS, judges, axis, open_, ["linker"])
        return () if hole is None else (hole.failed, hole.attacked, hole.words)

    wanted = (("linker",), True, "an attacker failed: linker")
    assert holes(Axis("rank1"), failed) == wanted
    assert holes(Axis("rank1", "clean"), failed) == ()
    assert holes(Axis("dssim"), failed) == ()
    still = {"method 1": {"linker": "its loss still falls"}}
    assert holes(Axis("rank1"), still, rank1_linker=0.5) == (), "it was measured, and counts"
    # a linker alone attacks: it has no pictures of its own
    alone = {"method 1": {"U-Net": "its training failed"}}
    results = {"method 1": {"rank1/clean": 0.2, "rank1/linker": 0.4}}
    hole = hole_of(results, "method 1", ["U-Net"], judges, Axis("rank1"), alone, ["linker"])
    assert hole is not None
    assert hole.attacked
    del results["method 1"]["rank1/linker"]
    hole = hole_of(results, "method 1", ["U-Net"], judges, Axis("rank1"), {"method 1": {"U-Net": "", "linker": ""}},
                   ["linker"])  # fmt: skip
    assert hole is not None
    assert hole.words == "its attackers failed: U-Net, linker"


def test_a_judge_that_found_no_number_is_missed() -> None:
    results = many(3)
    del results["method 2"]["attack 5/rank1/clean"]
    why = {"method 2": {"attack 5": "a metric of it is not a number"}}
    for axis, failed in (
        (Axis("rank1"), True),
        (Axis("rank1", "clean"), True),
        (Axis("rank1", "onnx"), False),
    ):
        hole = hole_of(results, "method 2", ATTACKS, list(JUDGES), axis, why)
        assert (hole is not None) == failed, axis
    why = {"method 2": {RELEASED: "it could not be measured"}}
    del results["method 2"]["rank1/clean"]
    hole = hole_of(results, "method 2", ATTACKS, list(JUDGES), Axis("rank1"), why)
    assert hole is not None
    assert hole.words == "not measured as released"


def test_page_json_and_csv_name_the_attackers_that_failed() -> None:
    page = page_of(with_holes(), open=FELL)
    words = {
        "method 3": f"its attackers failed: {', '.join(ATTACKS)}",
        "method 4": "an attacker failed: attack 0",
    }
    for method in page_data(page)["methods"]:
        for seen in method["strongest"].values():
            assert seen["unknown"] == words.get(method["label"], "")
            assert not (seen["unknown"] and seen["front"])
    for line in csv.DictReader(io.StringIO(csv_text(lines_of(page)))):
        assert line["unknown"] == words.get(line["method"], "")
        assert not (line["unknown"] and line["front"] == "1")
    _, rows = method_table(page)
    said = {row[0].text: [(cell.text, cell.interval, cell.order) for cell in row[-2:]] for row in rows}
    assert said["method 3"] == [("–", "≥ 2.0 as released", ""), (words["method 3"], "", "")]
    assert said["method 4"][0][0] == "≥ 2.0"
    assert said["method 4"][0][2] == "", "it is sorted last, as what was not measured"
    assert said["method 4"][1][1] == words["method 4"]
    assert said["method 1"][0][2] == pytest.approx(88.0), "whose loss still falls is measured"
    assert "What it gives away is not known" in paragraph(page, "method 3")
    assert "not known" not in paragraph(page, "method 1")


def test_a_hole_is_drawn_dashed_and_without_bars() -> None:
    text = render(page_of(with_holes(), open=FELL)).split("<svg")[1].split("</svg>")[0]
    for label, words in (
        ("method 3", "not attacked, its attackers failed"),
        ("method 4", "not known, an attacker"),
    ):
        drawn = re.search(
            rf'(?s)<g class="point hole"[^>]*aria-label="([^"]*)" data-method="{label}">(.*?)</g>', text
        )
        assert drawn is not None
        assert words in drawn[1]
        assert "<line" not in drawn[2]
        assert "on the Pareto front" not in drawn[1]
    assert "method 3 (not attacked)</text>" in text
    assert "method 4 (≥, an attack failed)</text>" in text
    assert "Dashed" not in render(page_of(many(3)))


def test_what_is_nan_was_not_measured() -> None:
    """It is no good score, and no place in the picture."""
    results = many(3)
    results["method 1"] = {k: math.nan if "rank1" in k else v for k, v in results["method 1"].items()}
    results["method 2"]["accuracy"] = math.nan
    page = page_of(results)
    _, rows = method_table(page)
    assert [row[-2].text for row in rows] == ["90.0", "–", "86.0"]
    assert [row[1].text for row in rows] == ["95.0", "94.0", "–"]
    text = render(page)
    assert "∞" not in text.split('id="methods"')[1].split("</table>")[0]
    assert "nan" not in text.split("<svg")[1].split("</svg>")[0].lower()


def test_a_verdict_stays_open_only_by_those_who_have_a_say_there() -> None:
    judges = {**JUDGES, "linker": "a linker"}
    results = many(2)
    for found in results.values():
        found |= {"rank1/linker": 0.1, "verification/linker": 0.1}
    falls, blind = "its loss still falls", "judge onnx: it cannot be made"
    opened = {"method 0": {"attack 3": falls, "linker": falls}, "method 1": {RELEASED: blind}}
    for axis, attacker, linker in (
        (Axis("rank1"), True, True),
        (Axis("rank1", "clean"), True, False),
        (Axis("rank1", "linker"), False, True),
        (Axis("dssim"), True, False),
    ):
        page = page_of(results, judges=judges, open=opened, linkers=["linker"], axis=axis)
        said = [one for one, counts in (("attack 3", attacker), ("linker", linker)) if counts]
        assert page.open_on("method 0", axis) == dict.fromkeys(said, falls), axis
        assert page.open_on("method 1", axis) == {RELEASED: blind}, "a judge that is missing leaves all open"
        assert page.hole("method 0", axis) is None, "what was measured counts"
        assert [row[-2].text[0] in "≥≤" for row in method_table(page)[1]] == [True, True]
        line = next(
            one for one in csv.DictReader(io.StringIO(csv_text(lines_of(page))))
            if (one["method"], one["measure"], one["judge"]) == ("method 0", axis.measure, axis.judge or "")
        )  # fmt: skip
        assert line["at_least"] == "; ".join(f"{one}: {falls}" for one in said)
    alone = {"method 0": {"linker": falls}}  # the page's first view is another judge's
    page = page_of(results, judges=judges, open=alone, linkers=["linker"], axis=Axis("rank1", "clean"))
    assert [row[-2].text[0] in "≥≤" for row in method_table(page)[1]] == [False, False]


def test_a_judge_that_knows_the_people_is_marked() -> None:
    words = "contaminated: 6 of the 6 people who are attacked are <among> those it was trained on"
    page = page_of(
        many(2), recognisers={"r": "x"}, contaminated={"judges.clean": words, "recognisers.r": words}
    )
    text = render(page)
    said = f'<span class="weak">– {words.replace("<", "&lt;").replace(">", "&gt;")}</span></dd>'
    judge, recogniser = (
        re.search(rf"<dt>{name}</dt>.*", text) for name in ("judge clean", "recogniser r")
    )  # fmt: skip
    assert judge is not None
    assert judge[0].endswith(said)
    assert recogniser is not None
    assert recogniser[0].endswith(said)
    assert text.count(said) == 2
    assert {label: one["contaminated"] for label, one in page_data(page)["judges"].items()} == {
        "clean": words, "onnx": "",
    }  # fmt: skip
