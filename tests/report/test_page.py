"""The page of many methods: what a reader picks, filters and sorts, in Chromium where there is one, and its data."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from datamodules import DrawnFaces
from lightning_app.core.csv_text import csv_text
from lightning_app.desensitize import OURS, Chain, GaussianBlur, Mosaic
from lightning_app.metrics.scores import Indicators, scores
from lightning_app.report.compare import RELEASED, Axis, hole_of, points_of, staircase
from lightning_app.report.compare_chart import compare_chart
from lightning_app.report.frontier import lines_of, paragraph, views
from lightning_app.report.html import Comparison, Example, page_data, render, state_table
from lightning_app.report.judges import Clean, standing
from lightning_app.report.page_tables import method_table
from lightning_app.report.score_table import Scored
from lightning_app.studies.compare.scoring import Indicated, scored
from tests.report.test_html import Read, doing, opened

JUDGES = {"clean": "runs/clean", "onnx": "a.onnx"}
ATTACKS = [f"attack {n}" for n in range(8)]


def many(count: int = 25) -> dict[str, dict[str, float]]:
    """Methods whose accuracy falls with their number, and what each attack sees of them as well.

    Judge `onnx` sees most of the even ones by attack 3, `clean` most of the odd ones by attack 5.
    """
    found = {}
    for n in range(count):
        metrics = {
            "accuracy": 0.95 - 0.01 * n,
            "accuracy_low": 0.93 - 0.01 * n,
            "accuracy_high": 0.97 - 0.01 * n,
        }
        for attack in (RELEASED, *ATTACKS):
            head = "" if attack == RELEASED else f"{attack}/"
            metrics |= {f"{head}dssim": 0.1, f"{head}psnr": 20.0}
            for judge in JUDGES:
                most = attack == ("attack 5" if judge == "clean" else "attack 3")
                gain = 0.2 * most * (1 if (judge == "onnx") == (n % 2 == 0) else 0.5)
                value = 0.7 - 0.02 * n + gain
                metrics |= {
                    f"{head}rank1/{judge}": value,
                    f"{head}rank1_low/{judge}": value - 0.02,
                    f"{head}rank1_high/{judge}": value + 0.02,
                    f"{head}verification/{judge}": value,
                }
        found[f"method {n}"] = metrics
    return found


def page_of(results: dict[str, dict[str, float]], **more: Any) -> Comparison:
    faces = DrawnFaces(2, 1, 16).__getitems__([0, 1])["image"].float() / 255
    given: dict[str, Any] = {
        "title": "many", "results": results, "description": {label: f"what {label} is" for label in results},
        "attacks": ATTACKS, "judges": JUDGES, "recognisers": {}, "axis": Axis("rank1"),
        "clean": {"clean": Clean(0.8, 0.78, 0.82), "onnx": Clean(0.983, 0.97, 0.99)},
        "words": dict.fromkeys(results, "Plain words."),
        "examples": {label: [Example(s, faces) for s in (RELEASED, *ATTACKS)] for label in results},
        "commands": ["python main.py compare --config x.yaml"], "versions": {"commit": "0123456789ab"},
        "scored": scored(indicated(), "onnx", "none"),
    }  # fmt: skip
    return Comparison(**(given | more))


def indicated(count: int = 25) -> dict[str, Indicated]:
    """Methods that are the more private and the less accurate, the higher their number; an attack on 11 failed."""
    made = {f"method {n}": Indicated(Indicators(0.02 * n, 0.02 * n, 0.01 * n, 0.01 * n, 1 - 0.01 * n), "attack 3")
            for n in range(count)}  # fmt: skip
    hole = Indicators(0.22, 0.22, math.nan, math.nan, 0.89)
    return made | {"method 11": Indicated(hole, "", "attack 3: its run failed")}


class Shown(Read):
    """What a reader sees: rows that are not hidden, the plot picked, and what is said of the candidates."""

    def __init__(self, text: str) -> None:
        self.hidden: list[bool] = []
        super().__init__(text)
        self.candidates = re.sub(r"<[^>]*>", " ", text.split('id="candidates"')[1].split("</form>")[0])
        self.plots = re.findall(r'<div class="plot[^"]*" data-view="([^"]*)"(?! hidden)', text)
        self.sections = re.findall(r'<section data-method="([^"]*)"(?! hidden)', text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        if tag == "tr":
            self.hidden.append("hidden" in dict(attrs))

    def rows(self, table: str) -> list[list[str]]:
        """Visible rows of a table, without its head."""
        flat = [(name, row) for name, found in self.tables.items() for row in found]
        return [row for (name, row), off in zip(flat, self.hidden, strict=True) if name == table and not off][
            1:
        ]


def browsed(tmp_path: Path, script: str, **more: Any) -> Shown:
    (tmp_path / "report.html").write_text(doing(render(page_of(many(), **more)), script), encoding="utf-8")
    return Shown(opened(tmp_path / "report.html"))


def test_chromium_picks_a_judge_and_finds_what_is_left(tmp_path: Path) -> None:
    """One visit, since starting a browser costs seconds: judge, slider, filter, sorting and the attack shown."""
    found = browsed(
        tmp_path,
        'view.value = "rank1/clean"; need.value = 84; filter.value = "what METHOD 1"; seen.value = "strongest"; '
        'view.dispatchEvent(new Event("input")); document.querySelectorAll("#methods thead button")[7].click();',
    )
    # accuracy 0.95 − 0.01 n reaches 84 up to 11, and of those the filter leaves 1, 10 and 11
    rows = found.rows("methods")
    assert [(row[0], row[7], row[8]) for row in rows] == [
        ("method 10", "60.0", "attack 5, clean"), ("method 11", "68.0", "attack 5, clean"),
        ("method 1", "88.0", "attack 5, clean"),
    ]  # fmt: skip
    assert found.plots == ["rank1/clean"]
    assert found.sections == ["method 1", "method 10", "method 11"]
    assert [row[:2] for row in found.rows("states")] == [[f"method {n}", "attack 5"] for n in (1, 10, 11)]
    assert "3 of 25 methods are left" in found.candidates
    # the scores are of the rows that are left; where an attack failed, nobody knows how private it is
    assert [(row[0], row[6:]) for row in found.rows("scores")] == [
        ("method 1", ["attack 3", "0.500", "1.000", "0.500", "0.750"]),
        ("method 10", ["attack 3", "1.000", "0.550", "0.550", "0.775"]),
        ("method 11", ["–", "–", "0.500", "–", "–"]),
    ]
    assert re.search(
        r"method 10: 60.0 % \[58.0, 62.0\] \(attack 5, clean\)\s+– the interval", found.candidates
    )


def test_chromium_runs_no_script_but_the_pages_own(tmp_path: Path) -> None:
    page = render(page_of(many(2)))
    stranger = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"
    (tmp_path / "report.html").write_text(page.replace("<main>", f"<main>{stranger}"), encoding="utf-8")
    text = opened(tmp_path / "report.html")
    assert "<title>many</title>" in text, "the policy stops it"
    assert "25" not in Shown(text).candidates
    assert "2 of 2 methods are left" in Shown(text).candidates, "and not what is ours"


def test_a_reader_may_pick_each_judge_and_whoever_sees_most() -> None:
    page = page_of(many(3))
    assert [(one.measure, one.judge) for one in views(page)] == [
        ("rank1", None), ("rank1", "clean"), ("rank1", "onnx"),
        ("verification", None), ("verification", "clean"), ("verification", "onnx"),
    ]  # fmt: skip
    assert [(one.measure, one.judge) for one in views(page_of(many(3), axis=Axis("dssim"), judges={}))] == [
        ("dssim", None)
    ]
    text = render(page)
    assert re.findall(r'class="plot" data-view="([^"]*)"( hidden)?', text)[:2] == [
        ("rank1", ""), ("rank1/clean", " hidden"),
    ]  # fmt: skip


def test_the_strongest_attack_of_each_method_is_named_for_each_judge() -> None:
    results = many(4)
    results["method 2"]["accuracy"] = 0.9  # method 3 is better in both
    data = page_data(page_of(results))
    even, odd = (method["strongest"] for method in data["methods"][2:4])
    assert (even["rank1"]["attack"], even["rank1"]["by"]) == ("attack 3", "onnx")
    assert (odd["rank1"]["attack"], odd["rank1"]["by"]) == ("attack 5", "clean")
    assert even["rank1/clean"]["value"] == pytest.approx(0.7 - 0.04 + 0.1)
    assert even["rank1/clean"]["low"] == pytest.approx(0.7 - 0.04 + 0.08)
    assert [m["strongest"]["rank1"]["front"] for m in data["methods"]] == [True, True, False, True]


def test_page_json_and_csv_say_the_same() -> None:
    results = many(3)
    results["method 0"]["psnr"] = math.inf
    page = page_of(results)
    data = json.loads(json.dumps(page_data(page), allow_nan=False))
    assert data["methods"][0]["figures"]["psnr"] is None, "strict JSON has no infinity"
    assert data["versions"] == {"commit": "0123456789ab"}
    assert data["judges"]["clean"] == {
        "about": "runs/clean", "standing": "weak", "value": 0.8, "low": 0.78, "high": 0.82,
    }  # fmt: skip
    lines = list(csv.DictReader(io.StringIO(csv_text(lines_of(page)))))
    assert len(lines) == 3 * 6
    for line in lines:
        method = next(one for one in data["methods"] if one["label"] == line["method"])
        seen = method["strongest"]["/".join(filter(None, (line["measure"], line["judge"])))]
        assert float(line["strongest"]) == seen["value"]
        assert (line["attack"], line["by"]) == (seen["attack"], seen["by"])
        assert float(line["accuracy"]) == method["accuracy"]["value"]
    inside = re.search(r'<script type="application/json" id="data">(.*?)</script>', render(page))
    assert inside is not None
    shown = json.loads(inside[1])
    assert shown.pop("csv") == csv_text(lines_of(page))
    for method in shown["methods"]:
        for one in method["strongest"].values():
            del one["cells"]
    assert shown == data


def test_the_page_of_many_is_small_and_readable() -> None:
    text = render(page_of(many()))
    found = Read(text)
    assert len(found.tables["methods"]) == 1 + 25
    assert len(found.tables["states"]) == 1 + 25 * 9
    assert 'class="scroll tall"' in text
    assert len(text) < 3_000_000
    assert text.count("data:image/webp") == 25 * 9, "many strips are compressed"
    assert text.count("<details") == 25
    assert "style=" not in text, "the policy allows no style in an element"
    assert 'onclick="' not in text


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


FELL = {"method 3": dict.fromkeys(ATTACKS, "its training failed"), "method 4": {"attack 0": "its training failed"},
        "method 1": {"attack 3": "its loss still falls"}}  # fmt: skip


def with_holes(count: int = 6) -> dict[str, dict[str, float]]:
    """Methods of which every attacker of 3 failed, and the first of 4; both would beat everybody as measured."""
    results = many(count)
    for label, attacks in (("method 3", ATTACKS), ("method 4", ["attack 0"])):
        kept = {k: v for k, v in results[label].items() if not k.startswith(tuple(f"{a}/" for a in attacks))}
        results[label] = {k: 0.02 if "rank1" in k or "verif" in k else v for k, v in kept.items()}
        results[label]["accuracy"] = 0.99
    return results


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


def test_chromium_does_not_rank_what_is_not_known(tmp_path: Path) -> None:
    script = 'document.querySelectorAll("#methods thead button")[7].click();'
    text = doing(render(page_of(with_holes(), open=FELL)), script)
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    found = Shown(opened(tmp_path / "report.html"))
    ranked, unknown = found.candidates.split("not known:")
    assert re.findall(r"method \d", ranked) == ["method 5", "method 2", "method 1"]
    assert f"method 3 (its attackers failed: {', '.join(ATTACKS)})" in unknown
    assert "method 4 (≥ 2.0 %; an attacker failed: attack 0)" in unknown
    assert [row[0] for row in found.rows("methods")][-2:] == ["method 3", "method 4"], "sorted last"


@pytest.mark.parametrize(
    ("clean", "word"),
    [
        (None, ""), (Clean(0.99, 0.98, 1), ""), (Clean(0.95, 0.93, 0.97), ""), (Clean(0.949, 0.93, 0.97), "weak"),
        (Clean(0.59, 0.55, 0.63), "near chance"), (Clean(0.7, 0.49, 0.9), "near chance"),
        (Clean(0.4, 0.4, 0.4), "near chance"),
    ],
)  # fmt: skip
def test_a_judge_is_what_it_makes_of_clean_faces(clean: Clean | None, word: str) -> None:
    assert standing(clean) == word


def test_weak_judges_are_marked() -> None:
    text = render(page_of(many(2)))
    assert re.search(r"<dt>judge clean</dt><dd>runs/clean; on clean faces 80.0 %.*– weak", text)
    assert "98.3 % [97.0, 99.0] right</dd>" in text


def test_a_method_without_accuracy_or_examples_has_its_row() -> None:
    results = many(2) | {"deface": {"rank1/clean": 0.3, "dssim": 0.2}}
    text = render(page_of(results, examples={"deface": []}))
    assert Read(text).tables["methods"][3][0] == "deface"
    assert "was given no drawn faces" in text
    none = render(page_of({"deface": {"rank1/clean": 0.3}}))
    assert 'id="need"' not in none, "no slider without any accuracy"


def test_every_method_of_ours_has_plain_words() -> None:
    for kind in OURS.values():
        if kind is not Chain:
            assert vars(kind).get("in_words", "").endswith("."), kind.__name__
    both = Chain([Mosaic(8), GaussianBlur(9)])
    assert both.words.startswith(f"{Mosaic.in_words} Then: The whole face is blurred")

    class Mine(Mosaic):
        """Do something else.

        Args:
            block: side.
        """

    assert Mine(8).words == "Do something else.", "nobody inherits another's words"


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


def test_scores_without_a_browser_are_of_all_rows_and_raw_values_are_kept() -> None:
    page = page_of(many())
    rows = opened_tables(render(page))["scores"]
    wanted = scores({label: one.of for label, one in indicated().items()})
    assert len(rows) == 1 + 25
    for row in rows[1:]:
        of = wanted[row[0]]
        made = (of.privacy, of.accuracy, of.product, of.mean)
        assert row[-4:] == ["–" if math.isnan(value) else f"{value:.3f}" for value in made]
    kept = page_data(page)["indicators"]["method 10"]
    assert kept["s1"] == pytest.approx(0.2)
    assert kept["privacy"] == pytest.approx(0.4 * 0.2 + 0.6 * 0.1)
    assert kept["attack"] == "attack 3"
    hole = page_data(page)["indicators"]["method 11"]
    assert "–<small>attack 3: its run failed</small>" in render(page)
    assert (hole["s1"], hole["s3"], hole["privacy"], hole["open"]) == (
        0.22,
        None,
        None,
        "attack 3: its run failed",
    )
    without = render(page_of(many(2), scored=Scored()))
    assert 'id="scores"' not in without


def opened_tables(text: str) -> dict[str, list[list[str]]]:
    """The page's tables, as they are written."""
    return Read(text).tables
