"""A masker's run of milliseconds a step, and what is compared of two of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from callbacks import RunCheckpoint
from datamodules import FaceDataModule
from datamodules.augment import Augment
from datamodules.readers.base import FaceReader, Pixels
from lightning_app.models import AdversarialMasker
from lightning_app.networks import Backbone
from lightning_app.runs.checkpoint_io import AtomicCheckpointIO


class Small(Backbone):
    """Two convolutions with batch norm, and a mean over cells: images `[B,3,H,W]` to embeddings `[B,16]`."""

    def __init__(self, in_channels: int, input_size: int) -> None:
        super().__init__()
        self.dim = 16
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1),
            nn.BatchNorm2d(16), nn.ReLU(),
        )  # fmt: skip

    def forward(self, image: Tensor, mask: Tensor | None = None, mask_index: Tensor | None = None) -> Tensor:
        found: Tensor = self.body(image).amax((2, 3))
        return found


SIZE, CLASSES = 16, 4
SPOT = (slice(2, 8), slice(9, 15))  # rows and columns in which alone the classes differ
SETTINGS: dict[str, Any] = {
    "backbone": Small, "masker_width": 8, "masker_depth": 2, "input_size": SIZE, "faces": 16,
    "codes": 2, "share": 36 / 256, "lr": 3e-3, "masker_lr": 1e-2,
}  # fmt: skip


class Spots(FaceReader):
    """Images of noise, of which one spot has the colour of the class."""

    def __init__(self, each: int = 10) -> None:
        super().__init__()
        self.size, self.each = SIZE, each

    def scan(self) -> None:
        self.identities = [f"class {number}" for number in range(CLASSES)]
        self.labels = torch.arange(CLASSES).repeat_interleave(self.each)

    def read(self, index: int) -> Pixels:
        image = np.random.default_rng(index).integers(0, 256, (3, SIZE, SIZE)).astype(np.uint8)
        colour = int(self.labels[index]) * 80
        image[:, SPOT[0], SPOT[1]] = np.array([colour, 255 - colour, 128], np.uint8)[:, None, None]
        return image

    def name(self, index: int) -> str:
        return f"spot {index}"

    def stable_name(self, index: int) -> str:
        return self.name(index)


def data(each: int = 10, **more: Any) -> FaceDataModule:
    """32 training images in batches of 8: four batches an epoch; 8 held out. Nothing is mirrored."""
    return FaceDataModule(
        Spots(each), augment=Augment(flip=0.0), global_batch_size=8, val_share=0.2, cache=True, seed=1, **more
    )


def fit(
    folder: Path, *callbacks: L.Callback, ckpt_path: Path | None = None, logger: Any = False,
    precision: Any = "32-true", every: int | None = None, desensitized: Any = None,
    limits: dict[str, Any] | None = None, **settings: Any,
) -> AdversarialMasker:  # fmt: skip
    """Train, checkpoints after every so many steps, and every epoch."""
    torch.manual_seed(1)
    each = settings.pop("each", 10)
    model = AdversarialMasker(**(SETTINGS | settings))
    trainer = L.Trainer(
        accelerator="cpu", logger=logger, enable_progress_bar=False, enable_model_summary=False, precision=precision,
        default_root_dir=folder, use_distributed_sampler=False, num_sanity_val_steps=0, plugins=[AtomicCheckpointIO()],
        callbacks=[*callbacks, RunCheckpoint(every_n_steps=every)], **(limits or {"max_epochs": 2}),
    )  # fmt: skip
    trainer.fit(
        model, datamodule=data(each, desensitizer=desensitized), ckpt_path=ckpt_path,
        weights_only=True,
    )  # fmt: skip
    return model


def digest(values: list[Tensor]) -> str:
    """Hash tensors' bytes."""
    found = hashlib.sha256()
    for value in values:
        found.update(value.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


class Turns(L.Callback):
    """Notes, of every batch, whose turn it was, which parts moved, and how many batches were done before."""

    def __init__(self) -> None:
        self.turns: list[tuple[bool, int, dict[str, bool]]] = []

    @staticmethod
    def parts(model: AdversarialMasker) -> dict[str, str]:
        def moments(part: nn.Module) -> list[Tensor]:
            kept = model.trainer.optimizers[0].state
            return [one for weight in part.parameters() for one in kept.get(weight, {}).values()]

        found = {"masker": model.masker, "backbone": model.backbone, "head": model.head}
        if model.restorer is not None:
            found["restorer"] = model.restorer
        return {
            f"{name} {what}": digest(values)
            for name, part in found.items()
            for what, values in (("state", list(part.state_dict().values())), ("moments", moments(part)))
        }

    def on_train_batch_start(self, trainer: Any, model: Any, batch: Any, batch_idx: int) -> None:
        self.before, self.turn, self.done = self.parts(model), model.adversarys_turn, model.batches.done

    def on_train_batch_end(self, trainer: Any, model: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        after = self.parts(model)
        self.turns.append((self.turn, self.done, {name: self.before[name] != after[name] for name in after}))
