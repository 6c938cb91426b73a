"""One `fit` of one epoch of four steps with Lightning's options, and what a callback saw of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import yaml

from tests.small_run import write_small_config

LIGHTNINGS = "lightning.pytorch.callbacks."
Metrics = dict[str, Any]


class Seen(L.Callback):
    """Keeps what a run saw: images of training and validation batches, rates, validations, and the trainer."""

    last: Seen

    def __init__(self) -> None:
        Seen.last = self
        self.images: list[tuple[int, list[int]]] = []  # epoch and numbers of each batch
        self.rates: list[float] = []
        self.validated: list[tuple[int, int]] = []  # global step, images
        self.frozen: list[bool] = []
        self.trainer: Any = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.trainer = trainer
        self.images.append((trainer.current_epoch, batch["index"].tolist()))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.frozen.append(not next(pl_module.parameters()).requires_grad)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self.validated.append((trainer.global_step, len(batch["image"])))


class Run:
    """One `fit` of one epoch of four steps, and what it left.

    Args:
        run: the command line.
        folder: where it is run.
    """

    def __init__(self, run: Callable[..., None], folder: Path) -> None:
        self._run, self.folder = run, folder
        self.run_dir = folder / "runs/small"

    def __call__(self, *callbacks: str | dict[str, Any], seen: bool = True, **trainer: Any) -> Metrics:
        """Run it; give metrics.json, empty where there is none."""
        more = {
            key: trainer.pop(key) for key in [*trainer] if key in ("ckpt_path", "overwrite", "data", "model")
        }
        path = write_small_config(self.folder, epochs=1)
        config = yaml.safe_load(path.read_text())
        watching = [{"class_path": c} if isinstance(c, str) else c for c in callbacks]
        own = [{"class_path": "tests.runs.watched_fit.Seen"}] if seen else []
        config["trainer"] |= {"callbacks": own + watching, "enable_model_summary": False} | trainer
        for part in ("data", "model"):
            config[part]["init_args"] |= more.pop(part, {})
        path.write_text(yaml.safe_dump(config))
        self._run("fit", "--config", path, *(f"--{key}={value}" for key, value in more.items()))
        metrics = self.run_dir / "metrics.json"
        return dict(json.loads(metrics.read_text())) if metrics.exists() else {}

    def files(self) -> set[str]:
        found = self.run_dir.rglob("*") if self.run_dir.exists() else []
        return {str(path.relative_to(self.run_dir)) for path in found if path.is_file()} - {".lock"}


def lightnings(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": LIGHTNINGS + name, "init_args": init_args}


def verification(**more: Any) -> dict[str, Any]:
    pairs = {
        "class_path": "datamodules.DrawnPairs",
        "init_args": {"size": 16, "identities": 4, "folds": 2, "pairs_per_fold": 8},
    }
    return {"class_path": "callbacks.LFWVerification", "init_args": {"reader": pairs, "bootstrap": 5, **more}}
