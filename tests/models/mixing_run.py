"""A small fit that learns how many images to mix: its data, its model, and a small network for its strategy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from callbacks import RunCheckpoint
from datamodules import DrawnFaces, FaceDataModule
from lightning_app.desensitize import Desensitizer
from lightning_app.runs.checkpoint_io import AtomicCheckpointIO
from tests.small_run import SmallLearner

LAST = Path("checkpoints/last.ckpt")
K = (2, 3, 4)


class TinyStrategy(nn.Module):
    """In place of a ResNet-18, where the network does not matter."""

    def __init__(self, in_channels: int, input_size: int, choices: int, width: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(in_channels, width, 4, stride=4)
        self.choose = nn.Linear(width, choices)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.choose(self.features(image).relu().mean((0, 2, 3)))
        return logits


def data(desensitizer: Desensitizer, size: int = 16) -> FaceDataModule:
    """Four batches of eight an epoch."""
    reader = DrawnFaces(identities=4, images_per_identity=8, size=size)
    return FaceDataModule(reader, desensitizer, global_batch_size=8, cache=True, seed=3)


def small(**more: Any) -> SmallLearner:
    torch.manual_seed(1)
    settings: dict[str, Any] = {
        "strategy_width": 8,
        "input_size": 16,
        "dropout": 0.3,
        "lr": 0.1,
        "weight_decay": 1e-3,
    }
    return SmallLearner(**settings | {"schedule": "one_cycle"} | more)


def fit(
    folder: Path,
    model: L.LightningModule,
    module: FaceDataModule,
    *callbacks: L.Callback,
    ckpt_path: Path | None = None,
    **limits: Any,
) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, use_distributed_sampler=False, num_sanity_val_steps=0, limit_val_batches=0,
        plugins=[AtomicCheckpointIO()], callbacks=[*callbacks, RunCheckpoint(every_n_steps=1)],
        **{"max_epochs": 2, **limits},
    )  # fmt: skip
    trainer.fit(model, datamodule=module, ckpt_path=ckpt_path, weights_only=True)
    return trainer
