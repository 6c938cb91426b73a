"""What `compare` shows and leaves: the table, metrics.json, CSV, the picture, the page, and loggers' copies."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
import platform
from contextlib import suppress

from PIL import Image
from rich import get_console

from lightning_app.core.csv_text import csv_text
from lightning_app.core.files import write_atomically
from lightning_app.core.measurement import Measurement
from lightning_app.core.printing import SafeConsole
from lightning_app.core.version import commit, version
from lightning_app.report import png_bytes, print_table, write_metrics
from lightning_app.report.columns import RELEASED, by_attack, columns_of
from lightning_app.report.compare import strongest
from lightning_app.report.compare_chart import compare_chart
from lightning_app.report.frontier import lines_of
from lightning_app.report.html import Comparison, page_data, render, state_table
from lightning_app.report.judges import clean_of, standing
from lightning_app.report.loss_curves import loss_figure
from lightning_app.report.score_table import Scored
from lightning_app.runs.send import send_report
from lightning_app.studies.compare.curves import why_open
from lightning_app.studies.compare.outcome import Outcome
from lightning_app.studies.compare.scoring import flat, indicators, scored
from lightning_app.studies.compare.words import describe

log = logging.getLogger("faceveil")
_LOOKED_AT = "*"  # behind a method whose metrics as released are of what `Desensitizer.look` shows
_PACKAGES = ("torch", "torchvision", "lightning", "opencv-python-headless", "numpy")


def write_report(out: Outcome, final: bool = False) -> None:
    """Write all files from what is known so far.

    Args:
        out: what was found.
        final: draw the picture, print the table and send copies to the loggers as well.
    """
    numbers = {
        f"compare/{label}/{key}": value
        for label, found in out.results.items()
        for key, value in found.items()
    }
    text: dict[str, float | str] = {**numbers}
    text |= {f"compare/{key}": value for key, value in out.metrics.items()}
    for label, found in out.results.items():
        seen = strongest(found, out.attacks, list(out.judges), out.axis)
        if seen is not None:
            name = f"compare/{label}/strongest/{out.axis.measure}"
            text |= Measurement(name, *seen[:3]).flat()
            text[f"compare/{label}/strongest/attack"] = seen[3]
            if seen[4]:
                text[f"compare/{label}/strongest/judge"] = seen[4]
        text[f"compare/{label}/strongest/at_least"] = bool(out.open_on(label))
        text |= {f"compare/{label}/{attack}/open": why for attack, why in out.open.get(label, {}).items()}
        text |= {
            f"compare/{label}/{attack}/batches": lines[label].batches
            for attack, lines in out.curves.items()
            if label in lines
        }
    judge, clean = out.scored_by()
    indicated = indicators(out.results, out.attacks, judge, clean, out.open)
    text |= flat(indicated)
    write_metrics(out.folder / "metrics.json", text)
    write_atomically(out.folder / "compare.csv", csv_text(csv_rows(out)))
    page = _page(out, scored(indicated, judge, clean))
    write_atomically(out.folder / "report.html", render(page))
    write_atomically(out.folder / "report.csv", csv_text(lines_of(page)))
    plain = json.dumps(page_data(page), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(out.folder / "report.json", f"{plain}\n")
    if not final:
        return
    picture = compare_chart(
        out.results, out.attacks, list(out.judges), out.axis, out.name, out.open, out.linkers
    )
    write_atomically(out.folder / "compare.png", png_bytes(picture))
    if out.curves:
        write_atomically(out.folder / "attackers.png", png_bytes(_losses(out)))
    heads, rows = table(out, page)
    # a narrow terminal, or a log file's 80 columns, would break the cells themselves
    wide = sum(max(len(cell) for cell in column) + 3 for column in zip(heads, *rows, strict=True)) + 2
    finite = {key: value for key, value in numbers.items() if math.isfinite(value)}
    send_report(out.loggers, out.folder, "compare", heads, rows, picture, finite)
    console = get_console() if get_console().width >= wide else SafeConsole(width=wide)
    title = f"compare {out.name}: shares in %, PSNR in dB, hidden: PSNR under the mask alone"
    if not all(map(out.shows_pictures, out.results)):
        title += f"; {_LOOKED_AT} releases no pictures: seen as its `look` shows it"
    print_table(title, rows, heads, console=console)
    print_table(
        "verdicts: what the strongest attack sees of each method", *verdicts(out)[::-1], console=console
    )
    if page.scored.raw:
        heads, cells = page.scored.table()
        title = (
            f"the second paper's scores, by {judge}, against {clean}; normalised over these {len(cells)} rows"
        )
        print_table(title, [[cell.text for cell in row] for row in cells], heads, console=console)
    for label in out.open:
        for attack, why in out.open_on(label).items():
            log.warning("%s: of %s the verdict says 'at least': %s.", label, attack, why)
    log.info("Intervals, everything measured and the picture: %s", out.folder / "report.html")


def verdicts(out: Outcome) -> tuple[list[str], list[list[str]]]:
    """Make the terminal's table of verdicts: the worst for each method, over judges and attacks.

    Args:
        out: what was found.
    """
    heads = ["method", "accuracy", out.axis.title, "strongest attack", "judge", "may find more"]
    rows = []
    for label, found in out.results.items():
        seen, accuracy = strongest(found, out.attacks, list(out.judges), out.axis), found.get("accuracy")
        opened = "; ".join(f"{attack}: {why}" for attack, why in out.open_on(label).items())
        row = [label, "–" if accuracy is None else f"{100 * accuracy:.1f}"]
        if seen is None:
            rows.append([*row, "–", "–", "–", opened])
            continue
        sign = ("≤ " if out.axis.higher_is_private else "≥ ") if opened else ""
        low, value, high = (f"{out.axis.scale * one:.3g}" for one in (seen[1], seen[0], seen[2]))
        worth = standing(clean_of(out.metrics, out.judges).get(seen[4]))
        rows.append([*row, f"{sign}{value} [{low}, {high}]", seen[3], f"{seen[4]}{f' ({worth})' if worth else ''}",
                     opened])  # fmt: skip
    return heads, rows


def table(out: Outcome, page: Comparison) -> tuple[list[str], list[list[str]]]:
    """Make the terminal's table: a row for each method, and one for each attack on it.

    Args:
        out: what was found.
        page: the same, as the page shows it.
    """
    single = len(out.judges) == 1
    columns = [
        (c, label) for c, label in columns_of(list(out.judges), list(out.recognisers), out.results) if c.short
    ]
    heads = ["method, attack", "s1 s2 s3"]
    for column, label in columns:
        head = column.short.format(label)
        heads.append(f"{head} {label}" if column.of == "judges" and not single else head)
    names, states = state_table(page)
    rows = []
    for state in states:
        cells = dict(zip(names, (cell.text for cell in state), strict=True))
        found, fresh = out.results[cells["method"]], cells["seen"] == RELEASED
        three = [found.get(f"accuracy{s}") for s in ("", "_s2", "_s3")]
        accuracies = " ".join("–" if a is None else f"{100 * a:.1f}" for a in three) if fresh else ""
        method = cells["method"] if out.shows_pictures(cells["method"]) else f"{cells['method']} {_LOOKED_AT}"
        rows.append([method if fresh else f"  {cells['seen']}", accuracies,
                     *(cells[column.head.format(label)] for column, label in columns)])  # fmt: skip
    return heads, rows


def csv_rows(out: Outcome) -> list[list[object]]:
    """Make the lines of compare.csv: one for each method and attack, a column for every metric.

    Args:
        out: what was found.
    """
    lines: list[dict[str, object]] = []
    for label, found in out.results.items():
        lines += [
            {"method": label, "seen": attack, **metrics}
            for attack, metrics in by_attack(found, out.attacks).items()
        ]
    columns = list(dict.fromkeys(key for line in lines for key in line))
    return [list(columns), *([line.get(key, "") for key in columns] for line in lines)]


def versions() -> dict[str, str]:
    """Return what made a report: FaceVeil, Python, and the packages that compute."""
    found = {"FaceVeil": version()} | ({"commit": commit()} if commit() else {})
    found["Python"] = platform.python_version()
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):  # it may be installed under another name
            found[package] = importlib.metadata.version(package)
    return found


def _losses(out: Outcome) -> Image.Image:
    lines = {
        attack: {label: (one.steps, one.losses, bool(why_open(one))) for label, one in curves.items()}
        for attack, curves in out.curves.items()
    }
    return loss_figure(lines, f"{out.name}: what more training would bring")


def _page(out: Outcome, made: Scored) -> Comparison:
    own = "the one trained on this method's images"
    real = " Then faces of the verification set, real ones." if out.private else ""
    return Comparison(
        title=f"FaceVeil comparison: {out.name}",
        results=out.results,
        description={label: describe(out.candidates[label]) for label in out.results},
        attacks=out.attacks,
        judges=out.judges | {k: f"trained for method {v}" for k, v in out.judges.items() if v in out.candidates},
        recognisers={k: own if v == "own" else f"trained for method {v}" if v in out.candidates else v
                     for k, v in out.recognisers.items()},
        axis=out.axis,
        words={label: out.candidates[label].setting.data.desensitizer.words for label in out.results},
        clean=clean_of(out.metrics, out.judges),
        open=out.open,
        linkers=out.linkers,
        contaminated=out.contaminated,
        examples=out.examples,
        faces=f"Drawn faces, which belong to nobody, as released and as each attack restores them.{real}",
        private=out.private,
        commands=[out.command, *dict.fromkeys(line for c in out.candidates.values() for line in c.commands)],
        versions=versions(),
        failed=out.failed,
        facts=out.facts,
        scored=made,
    )  # fmt: skip
