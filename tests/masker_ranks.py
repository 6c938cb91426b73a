"""What a rank does in the test of a masker under DDP: train, and tell what it ends with."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy

from callbacks import RunCheckpoint
from lightning_app.models import AdversarialMasker
from lightning_app.runs.checkpoint_io import AtomicCheckpointIO
from tests.models.masker_run import SETTINGS, data, digest


class Kinds(L.Callback):
    """Notes the gradients there are before each step."""

    def __init__(self) -> None:
        self.steps: list[tuple[bool, bool, bool]] = []

    def on_before_optimizer_step(self, trainer: Any, model: Any, optimizer: Any) -> None:
        parts = (model.masker, model.backbone)
        given = [any(weight.grad is not None for weight in part.parameters()) for part in parts]
        self.steps.append((model.adversarys_turn, given[0], given[1]))


def rank_of(world: int, rank: int, port: int, folder: Path) -> dict[str, Any]:
    """Train six batches on one of several ranks, then go on with two more from the checkpoint."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world),
                   "LOCAL_RANK": str(rank), "NODE_RANK": "0"}  # fmt: skip
    found: dict[str, Any] = {}
    for steps in (6, 8):
        torch.manual_seed(1)
        model, kinds = AdversarialMasker(**SETTINGS), Kinds()
        last = folder / "checkpoints/last.ckpt"
        trainer = L.Trainer(
            accelerator="cpu", devices=world, max_steps=steps, logger=False,
            callbacks=[kinds, RunCheckpoint(every_n_steps=1)], num_sanity_val_steps=0, enable_progress_bar=False,
            strategy=DDPStrategy(timeout=timedelta(seconds=60), find_unused_parameters=True),
            enable_model_summary=False, default_root_dir=folder, use_distributed_sampler=False,
            plugins=[AtomicCheckpointIO()],
        )  # fmt: skip
        trainer.fit(model, datamodule=data(), ckpt_path=last if steps == 8 else None, weights_only=True)
        found[f"{steps} steps"] = {
            "weights": digest(list(model.parameters())), "mean": digest([*model._means.values()]),
            "kinds": kinds.steps, "batches": model.batches.done,
        }  # fmt: skip
    return found
