"""Recognisers measured on one list of pairs under many masks; what is done is kept, and not done again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.verification.readers import PairFaces
from lightning_app.core.files import append_to, write_atomically
from lightning_app.distributed.precision import Precision
from lightning_app.evaluation.embed import Embedder, Shown, Tick, embed_images, rank_share
from lightning_app.evaluation.judges.recogniser import embed_pixels
from lightning_app.evaluation.pair_images import PairImages
from lightning_app.masks import MaskLevels
from lightning_app.metrics import verification
from lightning_app.metrics.rank import rank_correlation
from lightning_app.models.base import Recogniser
from lightning_app.report.tables import Scalar

SweepCell = dict[str, Any]
_Key = tuple[str, str, int, str]  # model, level, repeat, mask
_CELLS = "cells.jsonl"


class Faces(PairImages):
    """The images of a list of pairs, read once, and masks to lay on them.

    Args:
        reader: images and pairs.
        bank: masks of the images' size.
        mean: subtracted from every channel, on [0,1] pixels.
        std: what every channel is divided by then.
        batch_size: images per step.
        precision: as for Lightning's trainer.
        bootstrap: resamples behind the interval of an accuracy.
        device: where recognisers are.

    Attributes:
        hash: SHA-256 of images and pairs.
    """

    def __init__(
        self, reader: PairFaces, bank: MaskLevels, mean: float, std: float, batch_size: int,
        precision: Precision, bootstrap: int, device: torch.device,
    ) -> None:  # fmt: skip
        super().__init__(reader, batch_size, device)
        self.bank, self.mean, self.std = bank, mean, std
        self.precision, self.bootstrap = precision, bootstrap
        self.hash = self.digest()

    @torch.inference_mode()
    def embed(self, model: Recogniser, numbers: Tensor | None, tick: Tick) -> Tensor:
        """Embed every image once.

        Args:
            model: in `eval()`, on the device.
            numbers: which masks of the bank: `[N]` int64 one for each image, `[1]` one for all; None: clean.
            tick: called with the number of images done.

        Returns:
            `[N,D]` float32 of length 1, on the CPU.
        """

        def embedder(image: Tensor, mask: Tensor | None, mask_index: Tensor | None) -> Tensor:
            return embed_pixels(model, image, mask, mask_index, self.mean, self.std, self.precision)

        by: dict[str, Embedder] = {"model": embedder}
        shown = (self._shown(rows, numbers, by) for rows in rank_share(len(self), self.batch_size))
        return F.normalize(embed_images(shown, tick=tick)["model"]).cpu()

    def _shown(self, rows: Tensor, numbers: Tensor | None, by: dict[str, Embedder]) -> list[Shown]:
        image = self.clean(rows)
        if numbers is None:
            return [Shown(image, by)]
        mask = self.bank.masks(numbers if len(numbers) == 1 else numbers[rows]).to(self.device)
        return [Shown(image * mask, by, mask, torch.arange(len(rows), device=self.device) % len(mask))]

    def measure(self, model: Recogniser, numbers: Tensor | None, tick: Tick) -> dict[str, float]:
        """Return accuracy and AUC of a recogniser under masks with 95 % intervals over pairs; see `embed`."""
        embedding = self.embed(model, numbers, tick)
        scores = (embedding[self.pairs.a] * embedding[self.pairs.b]).sum(1).double()
        result = verification(scores, self.pairs.same, self.pairs.folds, bootstrap=self.bootstrap)
        metrics = result.as_dict("")
        return {key: value for key, value in metrics.items() if key.startswith(("accuracy", "auc"))}


class Cells:
    """The finished measurements of a sweep, one JSON object a line, written as soon as each is made.

    Args:
        run_dir: folder of the results.
        origin: settings that all of them share.
        overwrite: begin anew.
        results: names of what else a sweep leaves in the folder, which then goes too.

    Raises:
        FileExistsError: the folder holds another run, or measurements with other settings.
    """

    def __init__(self, run_dir: Path, origin: SweepCell, overwrite: bool, results: Sequence[str]) -> None:
        self.path, self.origin = run_dir / _CELLS, origin
        foreign = [mark for mark in ("checkpoints", "metrics.json") if (run_dir / mark).exists()]
        if foreign and not self.path.exists():
            raise FileExistsError(f"{run_dir} holds another run ({foreign[0]}): choose another --name")
        if overwrite:
            for result in (_CELLS, *results):
                (run_dir / result).unlink(missing_ok=True)
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]  # a kill may have cut the last one short
        try:
            self._cells: dict[_Key, SweepCell] = {_key(cell): cell for cell in map(json.loads, whole)}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is damaged ({error}): start anew with --overwrite") from error
        if len(whole) < len(lines):
            write_atomically(self.path, "".join(whole))

    def check(self, wanted: Sequence[SweepCell]) -> None:
        """Refuse measurements that were made with other settings, faces, masks or weights than those wanted."""
        for cell in wanted:
            there = self._cells.get(_key(cell), {})
            other = [k for k, v in (self.origin | cell).items() if there and there.get(k) != v]
            if other:
                raise FileExistsError(
                    f"{self.path.parent} holds a sweep with other settings ({other[0]} "
                    f"{_short(there.get(other[0]))}, not {_short((self.origin | cell)[other[0]])}): replace it "
                    "(--overwrite) or choose another --name"
                )

    def get(self, cell: SweepCell) -> SweepCell:
        """Return what was measured, with what was wanted; empty where nothing was."""
        return self._cells.get(_key(cell), {})

    def add(self, cell: SweepCell, metrics: dict[str, float]) -> None:
        """Keep a measurement."""
        self._cells[_key(cell)] = self.origin | cell | metrics
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with append_to(self.path) as file:
            file.write(json.dumps(self._cells[_key(cell)]) + "\n")


def _key(cell: SweepCell) -> _Key:
    return cell["model"], cell["level"], cell["repeat"], cell["mask"]


def _short(value: object) -> str:
    return str(value)[:12]


def summarise(
    found: Sequence[SweepCell], models: Sequence[str], levels: Sequence[str], bootstrap: int, seed: int
) -> dict[str, Scalar]:
    """Make the flat metrics of a sweep.

    Args:
        found: all measurements, the repeats of each level in order.
        models: names of the recognisers; differences are to the first.
        levels: names of the levels.
        bootstrap: resamples of the masks behind the intervals of rank correlations.
        seed: of the resamples.

    Returns:
        Under `sweep/MODEL/LEVEL/`: `accuracy` and `auc`, means over repeats; `std`, their standard deviation
        (ddof 1; None of a single one); `accuracy_low` and `accuracy_high`, means over repeats of the bounds of
        the 95 % interval over pairs. Under `sweep/delta/MODEL/LEVEL/`: `accuracy` and `std`, mean and spread over
        repeats of the difference to the first recogniser under the same masks. Under `sweep/rank/MODEL/`: see
        `rank_correlation`.
    """
    first, *others = models
    out: dict[str, Scalar] = {"time/sweep_s": float(sum(cell["seconds"] for cell in found))}
    for level in levels:
        cells = {
            key: [cell for cell in found if (cell["model"], cell["level"], cell["mask"]) == (key, level, "")]
            for key in models
        }
        for key, own in cells.items():
            for figure in ("accuracy", "accuracy_low", "accuracy_high", "auc"):
                if figure in own[0]:
                    out[f"sweep/{key}/{level}/{figure}"] = _mean([cell[figure] for cell in own])
            out[f"sweep/{key}/{level}/std"] = _spread([cell["accuracy"] for cell in own])
        for key in others:
            deltas = [x["accuracy"] - y["accuracy"] for x, y in zip(cells[key], cells[first], strict=True)]
            out[f"sweep/delta/{key}/{level}/accuracy"] = _mean(deltas)
            out[f"sweep/delta/{key}/{level}/std"] = _spread(deltas)
    single = single_masks(found)
    if others and single:
        groups = np.unique([level for level, _ in single], return_inverse=True)[1]
        out["sweep/rank/masks"] = len(single)
        for key in others:
            a, b = (np.array([cells[name] for cells in single.values()]) for name in (first, key))
            metrics = rank_correlation(a, b, groups, bootstrap, seed)
            out |= {f"sweep/rank/{key}/{name}": value for name, value in metrics.items()}
    return out


def single_masks(found: Sequence[SweepCell]) -> dict[tuple[str, str], dict[str, float]]:
    """Collect the accuracies under single masks: (level, mask) → recogniser → accuracy."""
    single: dict[tuple[str, str], dict[str, float]] = {}
    for cell in found:
        if cell["mask"]:
            single.setdefault((cell["level"], cell["mask"]), {})[cell["model"]] = cell["accuracy"]
    return single


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 10)  # shares of a few thousand pairs: no tail of rounding errors


def _spread(values: Sequence[float]) -> float | None:
    return round(float(np.std(values, ddof=1)), 10) if len(values) > 1 else None
