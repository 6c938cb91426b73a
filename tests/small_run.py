"""A run of milliseconds a step with everything in it that could make a resumed run differ from a whole one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn

from callbacks import RunCheckpoint
from datamodules import DrawnFaces, FaceDataModule
from lightning_app.desensitize import Desensitizer, MaskOut
from lightning_app.models.ada_mixup import LearnsToMix
from lightning_app.models.base import Recogniser
from lightning_app.models.schedule import Schedule
from lightning_app.networks import Backbone
from lightning_app.runs.checkpoint_io import AtomicCheckpointIO

STEPS = 4  # optimiser steps of an epoch
Event = tuple[Any, ...]


class SmallBackbone(Backbone):
    """A convolution with a batch norm: images `[B,3,H,W]` to embeddings `[B,64]`."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.dim = 64
        self.conv = nn.Conv2d(3, 16, 5, stride=4)
        self.bn = nn.BatchNorm2d(16)
        self.wide = nn.Linear(16, self.dim)

    def forward(self, image: Tensor, mask: Tensor | None = None, mask_index: Tensor | None = None) -> Tensor:
        embedding: Tensor = self.wide(torch.relu(self.bn(self.conv(image))).mean((2, 3)))
        return embedding


class SmallRecogniser(Recogniser):
    """Dropout, momentum, weight decay and a learning rate that changes at every step come from its config."""

    def configure_backbone(self, backbone: Any, input_size: int, in_channels: int) -> Backbone:
        return SmallBackbone()


class SmallLearner(LearnsToMix, SmallRecogniser):
    """It learns how much to mix as well."""


class Diary(L.Callback):
    """Writes down what happens, and in which order: to a list and, where FACEVEIL_DIARY names a file, there."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write("epoch", trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self._write(
            "step", trainer.global_rank, trainer.global_step, batch_idx, batch["index"].tolist(), rate
        )

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write("validation", trainer.current_epoch, trainer.global_step)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write("end", trainer.current_epoch)

    def _write(self, *event: Any) -> None:
        self.events.append(event)
        if file := os.environ.get("FACEVEIL_DIARY"):
            with open(file, "a", encoding="utf-8") as diary:
                print(event, file=diary, flush=True)
        if (ticks := os.environ.get("FACEVEIL_TICKS")) and event[:2] == ("step", 0):
            os.write(int(ticks), b".")


class Collector(DummyLogger):
    """Copies every checkpoint, and tells how far the diary was: `copies` is a list of (file, events before)."""

    def __init__(self, folder: Path, diary: Diary) -> None:
        super().__init__()
        self.folder, self.diary = folder, diary
        self.copies: list[tuple[Path, int]] = []

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        copy = self.folder / f"{len(self.copies)}.ckpt"
        copy.write_bytes(Path(checkpoint_callback.last_model_path).read_bytes())
        self.copies.append((copy, len(self.diary.events)))


def data(desensitizer: Desensitizer | None = None, **more: Any) -> FaceDataModule:
    """18 training images in global batches of 4, freeform masks drawn at every step, half of them mirrored."""
    reader = DrawnFaces(identities=3, images_per_identity=8, size=16)
    desensitizer = desensitizer or MaskOut(freeform=(0.4, 0.8), count=12, draw="batch")
    return FaceDataModule(reader, desensitizer, global_batch_size=4, val_share=0.25, cache=True, **more)


def fit(
    folder: Path,
    ckpt_path: Path | None = None,
    *callbacks: L.Callback,
    workers: int = 0,
    logger: Any = False,
    checkpoint: RunCheckpoint | None = None,
    schedule: Schedule = "one_cycle",
    desensitizer: Desensitizer | None = None,
    **limits: Any,
) -> L.Trainer:
    """Train a SmallRecogniser, checkpoints after every step."""
    torch.manual_seed(1)
    model = SmallRecogniser(input_size=16, dropout=0.3, lr=0.1, weight_decay=1e-3, schedule=schedule)
    trainer = L.Trainer(
        accelerator="cpu", logger=logger, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, use_distributed_sampler=False, num_sanity_val_steps=0, plugins=[AtomicCheckpointIO()],
        callbacks=[*callbacks, checkpoint or RunCheckpoint(every_n_steps=1)], **limits,
    )  # fmt: skip
    trainer.fit(
        model, datamodule=data(desensitizer, num_workers=workers), ckpt_path=ckpt_path, weights_only=True
    )
    return trainer


def state(path: Path) -> dict[str, Any]:
    """What has to be equal of two checkpoints, weights and moments bit for bit."""
    found = torch.load(path, weights_only=True)
    kept = {
        key: found[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "loops")
    }
    if "mix_strategy" in found:
        kept["mix_strategy"] = found["mix_strategy"]
    return dict(_flat(kept, ""))


def _flat(value: Any, name: str) -> list[tuple[str, Any]]:
    if isinstance(value, Tensor):
        return [(name, value.contiguous().numpy().tobytes())]
    if isinstance(value, dict):
        return [pair for key in value for pair in _flat(value[key], f"{name}/{key}")]
    if isinstance(value, list):
        return [pair for key, each in enumerate(value) for pair in _flat(each, f"{name}/{key}")]
    return [(name, value)]


def write_small_config(folder: Path, epochs: int, every_n_steps: int | None = None) -> Path:
    """A `fit` of `epochs` × 4 steps with checkpoints within the epochs, too, where asked."""
    callbacks: list[dict[str, Any]] = [{"class_path": "tests.small_run.Diary"}]
    if every_n_steps:
        callbacks.append(
            {"class_path": "callbacks.RunCheckpoint", "init_args": {"every_n_steps": every_n_steps}}
        )
    config = {
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": epochs,
            "log_every_n_steps": 1,
            "callbacks": callbacks,
        },
        "model": {
            "class_path": "tests.small_run.SmallRecogniser",
            "init_args": {"dropout": 0.3, "lr": 0.1, "weight_decay": 0.001, "schedule": "one_cycle"},
        },
        "data": {
            "class_path": "datamodules.FaceDataModule",
            "init_args": {
                "global_batch_size": 4,
                "val_share": 0.25,
                "cache": True,
                "reader": {
                    "class_path": "datamodules.DrawnFaces",
                    "init_args": {"identities": 3, "images_per_identity": 8, "size": 16},
                },
                "desensitizer": {
                    "class_path": "lightning_app.desensitize.MaskOut",
                    "init_args": {"freeform": [0.4, 0.8], "count": 12, "draw": "batch"},
                },
            },
        },
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
