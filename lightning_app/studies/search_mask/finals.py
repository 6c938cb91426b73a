"""Finals of a search: which candidates they are, what they are trained on, and what is left of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.face import FaceDataModule
from lightning_app.core.csv_text import csv_text
from lightning_app.masks import Finalist, SearchResult, TrainedScorer, finals
from lightning_app.masks.search.finals import check_rate, rounds_of
from lightning_app.studies.faces import drawn_numbers, load_faces

FINALS_JOURNAL = "finals.jsonl"
_TRAINED = 314  # salt of the draw of images that finals train on
_COLUMNS = ("place", "number", "place_by_F", "passes", "F_trained", "P", "objective_trained", "F")


@dataclass(frozen=True)
class FinalsSource:
    """What finals train, and on what.

    Attributes:
        model: the recogniser that training begins with.
        data: the image set, set up for `fit`.
        images: how many training images, or all that there are where these are fewer.
        lr: learning rate.
        bf16: whether in bfloat16.
        seed: of the draw and the order of images.
        device: where.
    """

    model: nn.Module
    data: FaceDataModule
    images: int
    lr: float
    bf16: bool
    seed: int
    device: torch.device


@dataclass(frozen=True)
class PlayedFinals:
    """Finals that have ended.

    Attributes:
        found: the search, with what they chose.
        order: the finalists, the chosen one first.
        by_F: their numbers, in the order that they had by F − γ·P of the scorer.
        images: that a pass trained on.
        lr: learning rate.
    """

    found: SearchResult
    order: tuple[Finalist, ...]
    by_F: tuple[int, ...]
    images: int
    lr: float

    @property
    def metrics(self) -> dict[str, Any]:
        """What `metrics.json` says of them."""
        best = self.order[0]
        return {
            "finalists": len(self.order), "finalist_images": self.images, "finalist_lr": self.lr,
            "F_trained": best.F, "objective_trained": best.objective, "finalist_passes": best.passes,
            "place_by_F": 1 + self.by_F.index(best.number),
        }  # fmt: skip

    def text(self) -> str:
        """Return the finalists as CSV, the chosen one first."""
        rows = {row.number: row for row in self.found.rows}
        lines: list[list[object]] = [[*_COLUMNS]]
        for place, one in enumerate(self.order, 1):
            lines.append([place, one.number, 1 + self.by_F.index(one.number), one.passes, one.F, one.P, one.objective,
                          rows[one.number].F])  # fmt: skip
        return csv_text(lines)


def check_finals(finalists: int, images: int, lr: float) -> None:
    """Refuse finals that cannot be, before anything is computed.

    Args:
        finalists: how many; 0 is none.
        images: that they train on.
        lr: learning rate.

    Raises:
        ValueError: an argument is out of range.
    """
    if finalists:
        rounds_of(finalists)
    if images < 2:
        raise ValueError(f"finalist_images: {images}; give at least 2, better some thousand")
    check_rate(lr)


def check_held_out(data: FaceDataModule) -> None:
    """Refuse finals without held-out images: F of images that were trained on says nothing.

    Args:
        data: the image set, set up for `fit`.

    Raises:
        ValueError: none is held out.
    """
    if data.held_out is None:
        raise ValueError(
            "finalists: data.val_share holds no image out, and F of images that were trained on says nothing; give "
            "data.val_share 0.2, and a checkpoint that held them out too"
        )


def play_finals(
    source: FinalsSource, held: tuple[Tensor, Tensor], found: SearchResult, finalists: int, gamma: float, folder: Path,
    replace: bool, progress: Callable[[int, int], None],
) -> PlayedFinals:  # fmt: skip
    """Let the best candidates of a search be judged by training.

    Args:
        source: what is trained, and on what.
        held: images and labels that F is measured on.
        found: the search.
        finalists: how many of its best; fewer where fewer were scored on all images.
        gamma: nats per unit of mask ratio.
        folder: of the mask, for the journal.
        replace: whether a journal of other finals is written anew.
        progress: called with (images trained on so far, all of them).

    Raises:
        ValueError: only one candidate was scored on all images, or training diverges.
    """
    training = source.data.training
    assert training is not None
    whole = [row.number for row in found.ranked() if row.objective is not None]
    if len(whole) < 2:
        raise ValueError("finalists: one candidate alone was scored on all images; give more candidates")
    by_F = tuple(whole[:finalists])
    count = min(source.images, len(training))
    images, labels = load_faces(
        training, drawn_numbers(len(training), count, _TRAINED, source.seed, "finalist_images")
    )
    scorer = TrainedScorer(
        source.model, images, labels, *held, mean=source.data.mean, std=source.data.std, lr=source.lr,
        bf16=source.bf16, device=source.device, seed=source.seed,
    )  # fmt: skip
    masks = {number: found.mask_of(number) for number in by_F}
    order = finals(scorer, masks, gamma, folder / FINALS_JOURNAL, replace, progress)
    return PlayedFinals(found.chosen([one.number for one in order]), tuple(order), by_F, count, source.lr)
