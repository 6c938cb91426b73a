"""What `search-mask` shows: a progress bar with the best so far, pictures, the table at the end."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.progress import TaskID
from torch import Tensor

from datamodules.drawing.reader import DrawnFaces
from lightning_app.core.files import PRIVATE, write_atomically
from lightning_app.core.progress import progress_bar
from lightning_app.masks import Finalist, SearchResult, SearchRow, save_mask
from lightning_app.masks.saliency.explain import Template
from lightning_app.report import png_bytes, print_table
from lightning_app.report.search import search_chart

log = logging.getLogger("faceveil")
_SHOWN = 12  # candidates in the figure
_HASHES = ("checkpoint", "scorer", "template_hash")
_WORDS = {
    "F": "F, cross-entropy in nats (fp32)", "P": "P, mask ratio", "objective": "F − γ·P", "gamma": "γ",
    "F_clean": "F without a mask", "number": "number of the best", "images": "images scored on",
    "passes": "forward passes", "passes_made": "of these now", "T": "T, threshold", "K": "K, faces",
    "sigma": "σ, pixels",
    "template_ratio": "mask ratio of the template alone", "bf16": "searched in bf16",
    "constant_maps": "faces whose saliency map said nothing", "finalists": "finalists, judged by training",
    "finalist_images": "images they were trained on", "finalist_passes": "passes over these, of the best",
    "F_trained": "F after that training", "objective_trained": "F − γ·P after that training",
    "place_by_F": "its place by F − γ·P before",
}  # fmt: skip


def print_search(folder: Path, report: dict[str, Any], identities: int) -> None:
    """Print the table, say where things are, and warn of a scorer that knows nothing under such masks."""
    short = {key: str(value)[:12] if key in _HASHES else value for key, value in report.items()}
    print_table(
        f"search-mask: {folder}/mask.png, lower objective is better; the picture is search.png",
        [[_WORDS.get(key, key), value] for key, value in short.items()],
        ["metric", "value"],
    )
    chance = math.log(identities)
    if report["F"] > chance:
        log.warning(
            "F is %.2f nats, above chance (log %d = %.2f): under such masks the scorer is no recogniser any more. How "
            "well its order of masks, and that of one trained under random masks (--scorer), agreed with training: "
            "docs/results/scorers.md.",
            report["F"], identities, chance,
        )  # fmt: skip


def save_template(folder: Path, template: Template, **facts: object) -> None:
    """Write saliency.png and template.png, before the search: it may find the template too large."""
    grey = (template.saliency[0] * 255).round().to(torch.uint8).numpy()
    write_atomically(folder / "saliency.png", png_bytes(Image.fromarray(grey)), mode=PRIVATE)
    save_mask(
        template.mask,
        folder / "template.png",
        method="critical template",
        explainer=template.explainer,
        **facts,
    )


def save_picture(
    folder: Path, found: SearchResult, template: Template | None, report: dict[str, Any], title: str,
    trained: Mapping[int, Finalist],
) -> None:  # fmt: skip
    """Write search.png into a folder; the face in it is drawn and nobody's."""
    saliency: list[tuple[str, Tensor]] = []
    shown: tuple[str, Tensor] | None = None
    if template is not None:
        saliency = [("mean saliency", template.raw), (f"smoothed, σ {report['sigma']:g}", template.saliency)]
        shown = (f"template, T {report['T']:g}", template.mask)
    shown_rows = found.ranked(_SHOWN)
    masks = [
        (
            f"{number}: {row.value:.3f} = {row.F:.3f} − {report['gamma']:g}·{row.P:.3f}"
            + ("" if row.objective is not None else f"\non {row.images} of {report['images']} images")
            + ("" if row.number not in trained else f"\n{_trained(trained[row.number])}"),
            found.mask_of(row.number),
        )
        for number, row in enumerate(shown_rows, 1)
    ]
    size = found.mask.shape[-1]
    face = torch.from_numpy(DrawnFaces(2, 1, size=size, seed=0, nuisance=0.3).read(0)).float() / 255
    picture = search_chart(
        masks, face.expand(3, -1, -1), found.mask, saliency, shown,
        f"{title}: F − γ·P = {report['objective']:.3f}, mask ratio {report['P']:.3f}",
        [(row.value, row.objective is not None) for row in shown_rows],
    )  # fmt: skip
    write_atomically(folder / "search.png", png_bytes(picture))


def _trained(one: Finalist) -> str:
    return f"F {one.F:.3f} after {one.passes} pass{'' if one.passes == 1 else 'es'} under it"


class SearchProgress:
    """A progress bar with the best candidate so far."""

    def __init__(self) -> None:
        self.bar = progress_bar()
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> SearchProgress:
        self.bar.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.bar.stop()

    def faces(self, done: int, total: int) -> None:
        """Show how many saliency maps are made."""
        self._show("saliency", "saliency maps", done, total)

    def finals(self, done: int, total: int) -> None:
        """Show how many images the finals have trained on."""
        self._show("finals", "finals: training under the best", done, total)

    def __call__(self, done: int, total: int, best: SearchRow) -> None:
        """Show how many forward passes are done."""
        words = (
            "scoring" if best is None else f"best {best.value:.3f}, F {best.F:.3f}, mask ratio {best.P:.3f}"
        )
        self._show("search", words, done, total)

    def _show(self, task: str, words: str, done: int, total: int) -> None:
        if task not in self.tasks:
            self.tasks[task] = self.bar.add_task(words, total=total)
        self.bar.update(self.tasks[task], description=words, completed=done, total=total)
