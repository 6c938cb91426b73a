"""What `predict` leaves behind: the embedding of every image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from safetensors.torch import save

from lightning_app.report import write_atomically

log = logging.getLogger("faceveil")


class Embeddings(BasePredictionWriter):
    """Write `embeddings.safetensors` into the run folder when `predict` ends.

    Tensors, in the reader's order: `embedding` `[N,D]` float32, the avgpool output; `identity` `[N]` int64, the
    class of each image; `index` `[N]` int64, its number in the reader; of a task `target` `[N]` int64, the class, while
    `identity` is the person, −1 where it is not known. Names are not written. Of several processes
    each writes its share, as `embeddings.RANK.safetensors`.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any] | None,
    ) -> None:
        """Write all predictions of this process."""
        if not predictions or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        tensors = {key: torch.cat([part[key] for part in predictions]) for key in predictions[0]}
        order = torch.argsort(tensors["index"])
        tensors = {key: value[order].contiguous() for key, value in tensors.items()}
        rank = f".{trainer.global_rank}" if trainer.world_size > 1 else ""
        path = Path(trainer.default_root_dir) / f"embeddings{rank}.safetensors"
        write_atomically(path, save(tensors))
        log.info("%d embeddings of %d numbers each: %s", *tensors["embedding"].shape, path)
