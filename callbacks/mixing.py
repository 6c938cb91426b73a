"""How much was mixed, over a training: the share of each k, and what a strategy thought of it."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from callbacks.media import log_media
from lightning_app.core.batch import Batch
from lightning_app.desensitize import mixer_of
from lightning_app.models.mix_strategy import shares_of
from lightning_app.report.mixing import mixing_figure

_MOST = 200  # parts that a training is drawn in; of a longer one, neighbours become one part


class MixingShares(L.Callback):
    """Draw `mixing.png` into the run folder and log it: which k batches were mixed with, over the training.

    Above the probability of each k, where the model learns it (`AdaMixUp`); below the share of batches that had it.
    Where k is drawn uniformly, the control, it also logs `mixing/share_K` and `mixing/mean_k`, as a model that learns
    k does itself. What it counted goes into the checkpoint, so that a resumed run's picture is whole.

    It says nothing where the data leave k to nobody.
    """

    def __init__(self) -> None:
        self.candidates: tuple[int, ...] = ()
        self.each = 1  # batches in a part
        # of each part: batches, then of each candidate its probabilities summed, and how often it was drawn
        self._parts: list[list[float]] = []

    def logged(self) -> tuple[str, ...]:
        """Return its log keys, as a pattern; none where the data leave k to nobody."""
        return ("mixing/*",) if self.candidates else ()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the candidates."""
        data: Any = getattr(trainer, "datamodule", None)
        mixer = None if data is None or stage != "fit" else mixer_of(data.desensitizer)
        self.candidates = () if mixer is None else mixer.candidates

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the batch."""
        if not self.candidates:
            return
        learns = getattr(pl_module, "mixes_itself", False)
        k = int(getattr(pl_module, "drawn_k", 0) or 0) if learns else batch["weight"].shape[1]
        drawn = [float(one == k) for one in self.candidates]
        strategy: Any = getattr(pl_module, "strategy", None)
        even = [1 / len(self.candidates)] * len(self.candidates)
        self._count([1.0, *(even if strategy is None else strategy.probability.tolist()), *drawn])
        if learns:
            return
        counts = [
            round(sum(part[1 + len(self.candidates) + at] for part in self._parts))
            for at in range(len(drawn))
        ]
        for name, value in shares_of(self.candidates, counts).items():
            pl_module.log(name, value, batch_size=len(batch["index"]))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw."""
        if not self._parts or not trainer.is_global_zero:
            return
        parts = torch.tensor(self._parts, dtype=torch.float64)
        count = len(self.candidates)
        ends = parts[:, 0].cumsum(0)
        probability, drawn = (one / parts[:, :1] for one in parts[:, 1:].split(count, 1))
        title = f"{type(pl_module).__name__}, {int(ends[-1])} batches"
        picture = mixing_figure(ends.tolist(), self.candidates, probability.tolist(), drawn.tolist(), title)
        log_media(trainer, "pictures/mixing", picture=picture, save_as="mixing.png")

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted."""
        return {"candidates": list(self.candidates), "each": self.each, "parts": self._parts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting, where the candidates are the same."""
        if list(state_dict["candidates"]) == list(self.candidates):
            self.each, self._parts = state_dict["each"], [list(part) for part in state_dict["parts"]]

    def _count(self, row: list[float]) -> None:
        if self._parts and self._parts[-1][0] < self.each:
            self._parts[-1] = [a + b for a, b in zip(self._parts[-1], row, strict=True)]
            return
        if len(self._parts) == _MOST:
            pairs = zip(self._parts[::2], self._parts[1::2], strict=True)
            self._parts = [[a + b for a, b in zip(*pair, strict=True)] for pair in pairs]
            self.each *= 2
        self._parts.append(row)
