from __future__ import annotations

import html
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from datamodules import DrawnFaces
from lightning_app.desensitize import Mosaic
from lightning_app.report import columns
from lightning_app.report.compare import (
    RELEASED,
    Axis,
    pareto,
    parse_axis,
    points_of,
    staircase,
    strongest,
)
from lightning_app.report.compare_chart import _before_and_after, compare_chart
from lightning_app.report.html import Comparison, Example, policy, render, state_table
from lightning_app.report.page_tables import method_table
from lightning_app.report.placing import bounds, place_labels
from lightning_app.studies.compare import report as compared

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
ATTACKS, JUDGES = ["Telea"], ["A", "B"]
RESULTS: dict[str, dict[str, float]] = {
    "none": {"accuracy": 0.9, "accuracy_low": 0.88, "accuracy_high": 0.92, "dssim": 0.0, "psnr": math.inf,
             "rank1/A": 0.8, "rank1_low/A": 0.75, "rank1_high/A": 0.85, "rank1/B": 0.7},
    "mosaic <8>": {"accuracy": 0.85, "dssim": 0.5, "psnr": 20.0, "rank1/A": 0.3, "rank1/B": 0.4},
    "mask": {"accuracy": 0.8, "dssim": 0.9, "psnr": 7.0, "rank1/A": 0.1, "rank1/B": 0.05, "Telea/rank1/A": 0.5,
             "Telea/rank1/B": 0.2, "Telea/dssim": 0.45, "Telea/psnr": 19.0, "Telea/psnr_hidden": 18.0,
             "mask_ratio": 0.76},
}  # fmt: skip


def page_of(**more: object) -> Comparison:
    faces = DrawnFaces(2, 1, 32).__getitems__([0, 1])["image"].float() / 255
    given: dict[str, object] = {
        "title": "a & b", "results": RESULTS, "description": {"none": "nothing is hidden"}, "attacks": ATTACKS,
        "judges": dict.fromkeys(JUDGES, "runs/x"), "recognisers": {"own": "its own"}, "axis": Axis("rank1"),
        "examples": {"mosaic <8>": [Example(RELEASED, Mosaic(8).desensitize(faces))]},
        "commands": ["python main.py compare --config x.yaml"], "versions": {"torch": "2"},
    }  # fmt: skip
    return Comparison(**(given | more))  # type: ignore[arg-type]


class Read(HTMLParser):
    """Tables by id as rows of texts, and the plot's points as their words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.points: dict[str, str] = {}
        self.circles = 0
        self._at, self._cell = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "table":
            self._at = found["id"] or ""
            self.tables[self._at] = []
        elif tag == "tr":
            self.tables[self._at].append([])
        elif tag in ("td", "th"):
            self._cell = True
            self.tables[self._at][-1].append("")
        elif tag == "small":
            self._cell = False
        elif tag == "g" and "data-method" in found:
            self.points.setdefault(found["data-method"] or "", found["aria-label"] or "")
        self.circles += tag == "circle"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.tables[self._at][-1][-1] += data


def opened(page: Path) -> str:
    """What headless Chromium makes of a page."""
    if CHROMIUM is None:
        pytest.skip("no chromium here (apt-get install chromium)")
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=2000",
        "--dump-dom",
    ]
    done = subprocess.run(
        [*command, f"--user-data-dir={page.parent / 'profile'}", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


def doing(page: str, script: str) -> str:
    """A page whose own script goes on with this one, under the policy that allows just that."""
    start, end = page.rindex("<script>") + len("<script>"), page.rindex("</script>")
    style = page[page.index("<style>") + len("<style>") : page.index("</style>")]
    own = page[start:end]
    before, after = (
        html.escape(policy(style, text)).replace("&#x27;", "&#39;") for text in (own, own + script)
    )
    assert before in page
    return page[:start].replace(before, after) + own + script + page[end:]


def test_the_strongest_attacker_counts() -> None:
    axis = parse_axis("rank1", JUDGES)
    assert strongest(RESULTS["mask"], ATTACKS, JUDGES, axis) == (0.5, 0.5, 0.5, "Telea", "A")
    assert strongest(RESULTS["none"], ATTACKS, JUDGES, axis) == (0.8, 0.75, 0.85, RELEASED, "A")
    only = parse_axis("rank1/B", JUDGES)
    assert strongest(RESULTS["mask"], ATTACKS, JUDGES, only) == (0.2, 0.2, 0.2, "Telea", "B")
    looks = parse_axis("dssim", [])
    assert strongest(RESULTS["mask"], ATTACKS, JUDGES, looks) == (0.45, 0.45, 0.45, "Telea", "")
    assert strongest({"accuracy": 0.5}, ATTACKS, JUDGES, axis) is None


def test_the_pareto_front_against_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    costs = [(float(a), float(b)) for a, b in torch.randint(0, 6, (40, 2), generator=generator)]
    for (x, y), best in zip(costs, pareto(costs), strict=True):
        beaten = [(a, b) for a, b in costs if a <= x and b <= y and (a, b) != (x, y)]
        assert best == (not beaten)
    points = {p.label: p for p in points_of(RESULTS, ATTACKS, JUDGES, Axis("rank1"))}
    assert {label: p.front for label, p in points.items()} == {
        "none": True,
        "mosaic <8>": True,
        "mask": False,
    }
    assert points["mask"].attack == "Telea"
    assert staircase(list(points.values()), Axis("rank1")) == [(40.0, 85.0), (80.0, 85.0), (80.0, 90.0)]
    looks = {p.label: p.front for p in points_of(RESULTS, ATTACKS, JUDGES, Axis("dssim"))}
    assert looks == {"none": True, "mosaic <8>": True, "mask": False}  # here higher is more private


def test_ticks_are_round_and_inside() -> None:
    for low, high in ((52, 88), (0.001, 0.004), (-3, 700), (5, 5)):
        first, last, ticks = bounds(low, high, 1e-3)
        assert first < low <= high < last
        assert 3 <= len(ticks) <= 8
        assert all(first <= tick <= last for tick in ticks)


def test_labels_keep_off_each_other_and_inside() -> None:
    anchors = [(100.0, 100.0), (104.0, 103.0), (100.0, 106.0), (395.0, 5.0), (2.0, 195.0)]
    sizes = [(60.0, 15.0)] * 5
    boxes = [(x, y, x + 60, y + 15) for x, y in place_labels(anchors, sizes, (0, 0, 400, 200))]
    for number, a in enumerate(boxes):
        assert min(a[:2]) >= 0
        assert a[2] <= 400
        assert a[3] <= 200
        for b in boxes[number + 1 :]:
            assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


def test_the_page_needs_nothing_from_outside() -> None:
    page = render(page_of())
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<link|<iframe", page)
    assert all(s.startswith("data:image/png;base64,") for s in re.findall(r'\ssrc="([^"]*)"', page))
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert "mosaic &lt;8&gt;" in page
    assert "<8>" not in page
    assert "faces of real people" not in page
    assert "faces of real people" in render(page_of(private=True))
    assert "Not everything could be measured" in render(page_of(failed=["mask: no luck"]))


def test_tables_say_what_was_measured() -> None:
    heads, rows = method_table(page_of())
    assert [cell.text for cell in rows[2]] == [
        "mask",
        "80.0",
        "–",
        "–",
        "76.0",
        "0.900",
        "7.0",
        "50.0",
        "Telea, A",
    ]
    assert rows[0][1].interval == "[88.0, 92.0]"
    assert rows[0][heads.index("PSNR")].text == "∞"
    heads, rows = state_table(page_of())
    assert [(row[0].text, row[1].text) for row in rows] == [
        ("none", RELEASED), ("mosaic <8>", RELEASED), ("mask", RELEASED), ("mask", "Telea"),
    ]  # fmt: skip
    assert rows[3][heads.index("PSNR hidden")].text == "18.0"
    assert rows[3][heads.index("rank-1 (B)")].text == "20.0"


def test_one_entry_makes_a_column_of_page_and_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    added = columns.Column("rank-50 ({})", "rank50", "judges", 100, short="rank-50")
    monkeypatch.setattr(columns, "COLUMNS", (*columns.COLUMNS, added))
    results = {"mask": RESULTS["mask"] | {"rank50/A": 0.25, "rank50_low/A": 0.2, "rank50_high/A": 0.3}}
    page = page_of(results=results, judges={"A": "runs/x"})
    heads, (released, _) = state_table(page)
    cell = released[heads.index("rank-50 (A)")]
    assert (cell.text, cell.interval) == ("25.0", "[20.0, 30.0]")
    out = SimpleNamespace(**vars(page), shows_pictures=lambda _: True)
    names, rows = compared.table(out, page)  # type: ignore[arg-type]  # it has what the table reads
    assert names[-3:] == ["verif.", "rank-50", "acc. own"]
    assert [row[-2] for row in rows] == ["25.0", "–"]


def test_chromium_reads_the_table_and_the_plot(tmp_path: Path) -> None:
    text = doing(render(page_of()), "document.querySelectorAll('#methods thead button')[7].click()")
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    found = Read(opened(tmp_path / "report.html"))
    head, *rows = found.tables["methods"]
    assert head[:2] == ["method", "accuracy s1"]
    # sorted by the browser: privacy after the strongest attack, rising
    assert [(row[0], row[7]) for row in rows] == [("mosaic <8>", "40.0"), ("mask", "50.0"), ("none", "80.0")]
    assert len(found.tables["states"]) == 1 + 4
    assert found.circles == 3 * 3, "a plot for whoever sees most, and for each judge"
    assert found.points["none"].startswith("none: accuracy 90.0 % [88.0, 92.0]")
    assert found.points["mask"].endswith("50 % [50, 50] (Telea, A)")
    assert found.points["mosaic <8>"].endswith("on the Pareto front")


def test_the_picture_is_drawn_with_and_without_points() -> None:
    for results in (RESULTS, {"a": {"accuracy": 0.5}}, {}):
        assert compare_chart(results, ATTACKS, JUDGES, Axis("rank1"), "t").size[0] > 1000
    assert "Nothing to draw yet" in render(page_of(results={"a": {"accuracy": 0.5}}, description={}))


def test_no_two_attacks_look_alike() -> None:
    attacks = [f"attack {n}" for n in range(20)]
    metrics = {f"{attack}/rank1/A": 0.1 + 0.01 * n for n, attack in enumerate(attacks)}
    axes = Figure().subplots()
    _before_and_after(axes, {"m": metrics | {"rank1/A": 0.1}}, attacks, ["A"], Axis("rank1"))
    looks = [
        (box.lines[0].get_marker(), box.lines[0].get_color())
        for box in axes.containers
        if isinstance(box, ErrorbarContainer)
    ]
    assert len(looks) == len({*looks}) == 21


@pytest.mark.parametrize(
    ("text", "judges", "message"),
    [
        ("rank9", ["A"], "privacy_axis: 'rank9'; give one of rank1"),
        ("rank1/C", ["A"], r"privacy_axis: 'rank1/C': judges are \['A'\]"),
        ("dssim/A", ["A"], "dssim has no judges"),
        ("rank1", [], "is measured by judges, and there are none"),
    ],
)
def test_an_axis_that_cannot_be_is_refused(text: str, judges: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_axis(text, judges)


def test_texts_are_escaped() -> None:
    assert html.escape("a & b") in render(page_of())


def test_hostile_names_are_text() -> None:
    """Labels come from configs, and captions and failures from file names: none of them becomes markup."""
    evil = "\"'></title></svg><script>alert(1)</script>"
    results = {f"{label}{evil}": {key.replace("/A", f"/A{evil}"): value for key, value in metrics.items()}
               for label, metrics in RESULTS.items()}  # fmt: skip
    page = render(page_of(
        title=evil, results=results, description={evil: evil}, judges={f"A{evil}": evil}, recognisers={evil: evil},
        faces=evil, commands=[evil], versions={evil: evil}, failed=[evil], facts={evil: evil},
        axis=Axis("rank1"), examples={evil: [Example(evil, DrawnFaces(2, 1, 32).__getitems__([0, 1])["image"] / 255)]},
    ))  # fmt: skip
    assert page.count("<script>") == 1
    assert page.count("</svg>") == page.count("<svg") == 1
    assert "alert(1)</script>" not in page
    assert "&#34;&#39;&gt;&lt;/title&gt;" in page
