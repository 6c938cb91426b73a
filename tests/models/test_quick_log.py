"""Figures that are logged the quick way are those that Lightning's own would be."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torchmetrics.functional.classification import multiclass_accuracy

from datamodules import DrawnFaces, FaceDataModule
from lightning_app.models import quick_log
from lightning_app.models.quick_log import log_again
from tests.small_run import SmallRecogniser


def fit(folder: Path, **limits: Any) -> tuple[list[dict[str, str]], dict[str, float]]:
    """Rows of the CSV, and the last figures, of a fit with a validation within each epoch."""
    torch.manual_seed(1)
    trainer = L.Trainer(
        accelerator="cpu", logger=CSVLogger(folder), enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, use_distributed_sampler=False, num_sanity_val_steps=0, log_every_n_steps=3,
        default_root_dir=folder, val_check_interval=2, **limits,
    )  # fmt: skip
    data = FaceDataModule(
        DrawnFaces(identities=3, images_per_identity=8, size=16),
        global_batch_size=4,
        val_share=0.25,
        cache=True,
    )
    trainer.fit(SmallRecogniser(input_size=16, lr=0.1, schedule="one_cycle"), datamodule=data)
    with next(folder.rglob("metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    return rows, {key: float(value) for key, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("limits", [{"max_epochs": 3}, {"max_steps": 6}], ids=str)
def test_the_same_rows_and_figures(
    limits: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []

    def counted(trainer: L.Trainer, name: str, *more: Any) -> bool:
        taken.append(name)
        return again(trainer, name, *more)

    again = log_again
    monkeypatch.setattr(quick_log, "log_again", counted)
    quick = fit(tmp_path / "quick", **limits)
    steps = int(quick[0][-1]["step"]) + 1
    assert taken.count("train/loss") >= steps // 2, "most steps go the quick way"
    monkeypatch.setattr(quick_log, "log_again", lambda *given: False)
    assert fit(tmp_path / "slow", **limits) == quick
    assert {"train/loss", "train/lr", "train/accuracy"} <= set(quick[1])


def test_the_accuracy_is_that_of_torchmetrics() -> None:
    model = SmallRecogniser(input_size=16, num_classes=5).eval()
    generator = torch.Generator().manual_seed(0)
    for count in (1, 7, 48):
        image = torch.randn(count, 3, 16, 16, generator=generator)
        identity = torch.randint(0, 5, (count,), generator=generator)
        batch: Any = {"image": image, "mask": None, "mask_index": identity, "identity": identity}
        logits, accuracy = model._judged(batch)[1:3]
        assert accuracy == multiclass_accuracy(logits, identity, 5, average="micro")
