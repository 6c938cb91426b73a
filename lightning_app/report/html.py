"""The page of a comparison: one file that opens anywhere, without a network."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from lightning_app.core.csv_text import csv_text
from lightning_app.core.measurement import find
from lightning_app.report.columns import WORDS
from lightning_app.report.figures import png_bytes
from lightning_app.report.frontier import Measured, data_of, lines_of, paragraph, views
from lightning_app.report.judges import standing
from lightning_app.report.page_tables import PageCell, method_table, state_heads, state_rows, strongest_cells
from lightning_app.report.plot import plot_of
from lightning_app.report.score_table import Scored

_HERE = Path(__file__).parent
_GAP = 4  # pixels between faces
_FEW = 40  # strips of faces that are kept pixel for pixel; more of them would make tens of megabytes


@dataclass(frozen=True)
class Example:
    """Faces of one method, in one state.

    Attributes:
        caption: such as `as released`.
        faces: `[N,3,H,W]` in [0,1].
    """

    caption: str
    faces: Tensor

    @cached_property
    def png(self) -> str:
        """The faces side by side, pixel for pixel: a `data:` address."""
        return "data:image/png;base64," + base64.b64encode(png_bytes(self._row())).decode()

    @cached_property
    def webp(self) -> str:
        """The faces side by side, compressed: a `data:` address."""
        buffer = io.BytesIO()
        self._row().save(buffer, "WEBP", quality=92, method=2)
        return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()

    def _row(self) -> Image.Image:
        pixels = (self.faces.detach().float().clamp(0, 1) * 255).round().byte().cpu()
        count, _, height, width = pixels.shape
        row = torch.full((3, height, count * (width + _GAP) - _GAP), 255, dtype=torch.uint8)
        for number, face in enumerate(pixels):
            row[:, :, number * (width + _GAP) : number * (width + _GAP) + width] = face
        return Image.fromarray(row.permute(1, 2, 0).contiguous().numpy())


@dataclass(frozen=True, kw_only=True)
class Comparison(Measured):
    """All that the page shows, beside what was measured.

    Attributes:
        title: of the page.
        recognisers: label -> what it is.
        examples: method -> its faces in each state.
        faces: what the faces are.
        private: whether faces of real people are shown.
        commands: the command line that made it, and those it ran.
        versions: name -> version.
        failed: what did not work, in a line each.
        facts: name -> value: pairs, images, people.
        scored: the second paper's indicators.
    """

    title: str
    recognisers: Mapping[str, str]
    examples: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    faces: str = "drawn faces"
    private: bool = False
    commands: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    failed: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    scored: Scored = field(default_factory=Scored)


def page_data(comparison: Comparison) -> dict[str, Any]:
    """Make plain values of all that the page shows but its faces: what `report.json` holds.

    Args:
        comparison: what it shows.
    """
    return {
        "title": comparison.title,
        "facts": dict(comparison.facts),
        **data_of(comparison),
        "recognisers": dict(comparison.recognisers),
        "indicators": comparison.scored.plain(),
        "failed": list(comparison.failed),
        "commands": list(comparison.commands),
        "versions": dict(comparison.versions),
    }


def state_table(comparison: Comparison) -> tuple[list[str], list[list[PageCell]]]:
    """Make the table of everything measured: a row for each method and attack.

    Args:
        comparison: what is shown.

    Returns:
        Heads and rows.
    """
    whom = list(comparison.recognisers)
    return [head.text for head in state_heads(comparison, whom)], state_rows(comparison, whom)


def render(comparison: Comparison) -> str:
    """Make the page: no address of anything outside it stands in it, and no script but its own may run.

    Args:
        comparison: what it shows.

    Returns:
        HTML, with styles, pictures, data and script inside.
    """
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    picked = views(comparison)
    lossless = sum(map(len, comparison.examples.values())) <= _FEW
    accuracies = [one.value for f in comparison.results.values() if (one := find(f, "accuracy")) is not None]
    return environment.get_template("compare.html.j2").render(
        c=comparison,
        policy=policy(style, script),
        style=Markup(style),  # ours
        script=Markup(script),  # ours
        data=Markup(_json(_shown(comparison))),  # escaped there
        plots=[plot for axis in picked if (plot := plot_of(comparison, axis))],
        methods=method_table(comparison),
        state_heads=state_heads(comparison, list(comparison.recognisers)),
        states=state_rows(comparison, list(comparison.recognisers)),
        words=WORDS,
        scores=comparison.scored.table(),
        lossless=lossless,
        standings={label: standing(comparison.clean.get(label)) for label in comparison.judges},
        paragraphs={label: paragraph(comparison, label) for label in comparison.results},
        accuracies=(min(accuracies), max(accuracies)) if accuracies else None,
        examples=[
            (label, [(e.caption, e.png if lossless else e.webp, len(e.faces)) for e in shown])
            for label, shown in comparison.examples.items()
        ],
    )


def policy(style: str, script: str) -> str:
    """Write the Content-Security-Policy under which this style and this script run, and nothing else.

    Args:
        style: text of the page's `<style>`.
        script: text of its `<script>`.
    """
    return (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; "
        "form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _shown(comparison: Comparison) -> dict[str, Any]:
    """Add to the data what the script puts into cells, so that it writes no number by itself."""
    data = page_data(comparison)
    axes = {view["key"]: axis for view, axis in zip(data["views"], views(comparison), strict=True)}
    for method in data["methods"]:
        for key, seen in method["strongest"].items():
            cells = strongest_cells(comparison, method["label"], axes[key])
            seen["cells"] = [[cell.text, cell.interval, cell.order] for cell in cells]
    data["csv"] = csv_text(lines_of(comparison))
    return data


def _json(data: object) -> str:
    """Write JSON that ends no element: `<`, `>` and `&` are escaped."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False)
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found.group()):04x}", text)
