"""A run of seconds on 'faces' of noise, for tests of what watches a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules import FaceDataModule
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize.base import Desensitizer
from lightning_app.runs.loggers import WandbLogger

SIZE = 32
HIDDEN = (255, 0, 255)  # what lies under the mask of TinyData's faces; nothing else has this colour


def half_mask() -> Tensor:
    """`[1,1,32,32]`, the lower half hidden."""
    mask = torch.ones(1, 1, SIZE, SIZE)
    mask[..., SIZE // 2 :, :] = 0
    return mask


class LowerHalf(Desensitizer):
    """Hides the lower half; with `spared`, not of the first image; with `moving`, another half every time."""

    def __init__(self, spared: bool = False, moving: bool = False) -> None:
        super().__init__()
        self.spared, self.moving, self.calls = spared, moving, 0

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        self.calls += 1
        desensitized = batch.copy()
        mask = half_mask().flip(-2) if self.moving and self.calls % 2 == 0 else half_mask()
        if self.spared:
            mask = torch.cat([mask, torch.ones_like(mask)])
        desensitized["mask_index"] = torch.zeros(len(batch["image"]), dtype=torch.int64)
        desensitized["mask_index"][0] = len(mask) - 1
        desensitized["mask"] = mask
        desensitized["image"] = batch["image"] * mask[desensitized["mask_index"]]
        return desensitized


class NoPicture(Desensitizer):
    """Returns other channels."""

    is_image = False
    out_channels = 5

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        desensitized = batch.copy()
        desensitized["image"] = batch["image"].mean(1, keepdim=True).expand(-1, 5, -1, -1)
        desensitized["mask"], desensitized["mask_index"] = (
            None,
            torch.zeros(len(batch["image"]), dtype=torch.int64),
        )
        return desensitized


class Open(Desensitizer):
    """Desensitizes nothing."""

    hides = False

    def desensitize(self, image: Tensor) -> Tensor:
        return image


class TinyData(L.LightningDataModule):
    """Eight 'faces': noise above, magenta below."""

    def __init__(self, desensitizer: Desensitizer | None = None, drawn: bool = False) -> None:
        super().__init__()
        self.desensitizer = desensitizer if desensitizer is not None else LowerHalf()
        self.drawn = drawn
        generator = torch.Generator().manual_seed(0)
        self.raw = torch.randint(0, 200, (8, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
        self.raw[:, :, SIZE // 2 :] = torch.tensor(HIDDEN, dtype=torch.uint8).view(1, 3, 1, 1)

    def raw_samples(self, count: int) -> Tensor:
        return self.raw[:count]

    def desensitized(
        self, images: Tensor, index: Tensor | None = None, draw_key: DrawKey | None = None
    ) -> Batch:
        batch: Batch = {"image": images.float() / 255, "index": torch.arange(len(images))}
        out: Batch = self.desensitizer(batch, draw_key)
        return out

    as_trained = FaceDataModule.as_trained

    def train_dataloader(self) -> DataLoader[Any]:
        batches = [{"image": self.raw[:4].float(), "index": torch.arange(4)}] * 3
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return self.train_dataloader()

    test_dataloader = val_dataloader


class TinyModel(L.LightningModule):
    """Learns one number; logs what it is told to."""

    def __init__(
        self, metrics: dict[str, float] | None = None, fail: type[BaseException] | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.metrics, self.fail = metrics or {}, fail

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.fail is not None and self.global_step == 2:
            raise self.fail("stopped on purpose")
        loss = (self.weight - 1) ** 2
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log_dict({"val/loss": (self.weight - 1) ** 2, **self.metrics}, batch_size=4)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("test/loss", (self.weight - 1) ** 2, batch_size=4)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class GatedModel(TinyModel):
    """Has a gate of two channels at two insertion points."""

    def gate(self, mask: Tensor) -> dict[str, Tensor]:
        assert not self.training
        small = nn.functional.adaptive_avg_pool2d(mask, 4)
        return {"layer2": small.expand(-1, 2, -1, -1), "layer3": small.expand(-1, 2, -1, -1) * 0.5}


class Recorder(WandbLogger):
    """Stands where W&B's logger stands and keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[tuple[str, Any, int]] = []
        self.tables: list[tuple[str, list[str], list[list[str]]]] = []
        self.metrics: dict[str, float] = {}

    @property
    def experiment(self) -> None:
        return None

    def log_image(self, key: str, images: list[Any], step: int = -1) -> None:  # type: ignore[override]
        self.images.append((key, images[0], step))

    def log_table(self, key: str, columns: Any = None, data: Any = None, step: int = -1) -> None:  # type: ignore[override]
        self.tables.append((key, columns, data))

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.metrics |= metrics

    def log_hyperparams(self, params: Any) -> None:
        pass


MakeTrainer = Callable[..., L.Trainer]
