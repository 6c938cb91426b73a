"""What a search leaves: the mask with its facts, metrics, candidates and pictures, all at once."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lightning_app.core.files import write_atomically
from lightning_app.core.version import version
from lightning_app.desensitize import LearnedMask
from lightning_app.masks import (
    BrushRange,
    Finalist,
    MaskScorer,
    SearchResult,
    mask_ratio,
    save_mask,
    write_candidates,
)
from lightning_app.masks.search.run import Strategy
from lightning_app.masks.search.strategies import SearchRow
from lightning_app.report import write_metrics
from lightning_app.runs.atomic import files_at_once
from lightning_app.studies.search_mask.finals import PlayedFinals
from lightning_app.studies.search_mask.pool import MaskPool
from lightning_app.studies.search_mask.report import save_picture, save_template
from lightning_app.studies.search_mask.template import MadeTemplate

_RESULT = (
    "mask.png",
    "mask.json",
    "candidates.csv",
    "finalists.csv",
    "metrics.json",
    "search.png",
    "saliency.png",
    "template.png",
    "template.json",
)


@dataclass(frozen=True)
class SearchRecord:
    """A search that has ended, and what it was asked for.

    Attributes:
        found: the search.
        template: that candidates keep visible; None where there is none.
        learned: the mask of a masker among the candidates.
        pool: the folder that was searched in, in place of drawn candidates.
        ratio: of drawn candidates.
        gamma: nats per unit of mask ratio.
        strategy: how passes were spent.
        brushes: ranges of drawn candidates; None: the defaults.
        seed: seed of faces, images and candidates.
        images: how many were scored on.
        min_images: what `halving` started with.
        held_out: whether these were held out of the training.
        bf16: whether it scored in bfloat16.
        checkpoint: SHA-256 of the clean model's.
        scorer: SHA-256 of the scorer's.
        finals: in which the best candidates were judged by training; None where there were none.
    """

    found: SearchResult
    template: MadeTemplate | None
    learned: LearnedMask | None
    pool: MaskPool | None
    ratio: tuple[float, float]
    gamma: float
    strategy: Strategy
    brushes: BrushRange | None
    seed: int
    images: int
    min_images: int
    held_out: bool
    bf16: bool
    checkpoint: str
    scorer: str
    finals: PlayedFinals | None = None

    def metrics(self, exact: MaskScorer) -> dict[str, Any]:
        """Return the metrics of the mask that was found, and how it was found.

        Args:
            exact: scores in float32.
        """
        found = self.found
        loss, share = exact.score(found.mask), mask_ratio(found.mask)
        assert isinstance(share, float)
        metrics: dict[str, Any] = {
            "F": loss, "P": share, "objective": loss - self.gamma * share, "gamma": self.gamma,
            "F_clean": exact.score(torch.ones_like(found.mask)), "strategy": self.strategy, "seed": self.seed,
            "candidates": len({row.number for row in found.rows}), "number": found.best.number,
            "images": self.images, "held_out": self.held_out, "passes": found.asked,
            "passes_made": found.passes, "bf16": self.bf16,
            "checkpoint": self.checkpoint, "scorer": self.scorer, "ebp": self.template is not None,
        }  # fmt: skip
        if self.strategy == "halving":
            metrics["min_images"] = self.min_images
        if self.finals is not None:
            metrics |= self.finals.metrics
        return metrics if self.template is None else metrics | self.template.metrics

    @property
    def of_masker(self) -> dict[str, Any]:
        """What became of the masker's mask, the candidate of the highest number.

        Its place among all: those that were scored on more images come first, then those of a lower F − γ·P.
        """
        rows = self.found.rows
        own = max(rows, key=lambda row: row.number)

        def order(row: SearchRow) -> tuple[int, float]:
            scores = (score for score in (row.objective, row.estimate) if score is not None)
            return -row.images, next(scores, math.inf)

        place = 1 + sum(order(row) < order(own) for row in rows)
        return {
            "number": own.number, "found": self.found.candidate is None, "F": own.F, "P": own.P,
            "images": own.images, "place": place, "of": len(rows),
        }  # fmt: skip

    def how_made(self, seconds: float) -> dict[str, Any]:
        """Return what mask.json says beside the metrics: how candidates and template were made.

        Args:
            seconds: that the search took.
        """
        found, template = self.found, self.template
        made: dict[str, Any] = {
            "method": "search", "version": version(), "time_s": round(seconds, 1),
            "template_from_private_faces": 0 if template is None else template.private,
        }  # fmt: skip
        if template is not None:
            explainer = template.asked.explainer
            made |= {"explainer_args": explainer.init_args, "attribute_args": explainer.attribute_args}
        if found.candidate is not None:
            made["candidate"] = found.candidate.to_dict()
        if self.learned is not None:
            made["from_masker"] = self.learned.describe() | self.of_masker
        if self.pool is not None:
            made["given"] = self.pool.facts(found.best.number)
        else:
            made |= {"ratio": list(self.ratio), "brushes": asdict(self.brushes or BrushRange())}
        return made


def write_search(
    folder: Path, record: SearchRecord, metrics: dict[str, Any], how_made: dict[str, Any]
) -> None:
    """Write all files of a search at once, in place of an earlier one's.

    Args:
        folder: of the mask.
        record: of the search.
        metrics: see `SearchRecord.metrics`.
        how_made: see `SearchRecord.how_made`.

    Raises:
        OSError: they cannot be written; an earlier result stays as it is.
    """
    found, template = record.found, record.template
    # an earlier result goes only now that there is a new one; mask.png comes last: its presence means a finished search
    with files_at_once(folder, {file: file for file in _RESULT}) as work:
        if template is not None:
            save_template(work, template.template, **template.asked.facts)
        write_candidates(found.rows, work / "candidates.csv")
        trained: dict[int, Finalist] = {}
        if record.finals is not None:
            write_atomically(work / "finalists.csv", record.finals.text())
            trained = {one.number: one for one in record.finals.order}
        save_picture(
            work, found, None if template is None else template.template, metrics, folder.name, trained
        )
        write_metrics(work / "metrics.json", {f"search/{key}": value for key, value in metrics.items()})
        save_mask(found.mask, work / "mask.png", **metrics, **how_made)
