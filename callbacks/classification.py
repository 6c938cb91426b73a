"""Which classes are told apart, and which are taken for each other."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from callbacks.measured import log_measurements
from callbacks.media import log_media, save_file
from lightning_app.core.csv_text import csv_text
from lightning_app.core.log_keys import measurement
from lightning_app.core.measurement import Measurement
from lightning_app.metrics.classification import ClassificationResult, classification, wilson
from lightning_app.report import print_table
from lightning_app.report.confusion import confusion_picture

log = logging.getLogger("faceveil")
_MOST = 20  # classes with metrics of their own
_WORDS = {"val": "validation", "test": "test"}


class ClassificationReport(L.Callback):
    """Count which class was predicted for which, over all validation or test images, and log what follows from it.

    For a task, such as emotion or the colour of hair: `val/accuracy_low` and `val/accuracy_high`, the 95 % interval of
    the model's `val/accuracy` (Wilson's; it takes images as independent); `val/balanced_accuracy`, the mean recall of
    the classes; for up to 20 classes `val/recall_CLASS` and `val/precision_CLASS` with intervals, `val/images_CLASS`,
    and the confusion matrix as a table and as `confusion_val.png` and `confusion_val.csv` in the run folder. In `test`
    the keys begin with `test/` and the files are `confusion_test`. Where classes are people, nothing is logged of a
    single class.

    Under DDP the counts of all ranks are added; each image counts once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.measurements: list[Measurement] = []
        self.matrix: Tensor | None = None  # [C,C] on the CPU, of the last validation or test; rows are true
        self._counted: MulticlassConfusionMatrix | None = None
        self._names: list[str] | None = None
        self._stage = "val"

    def logged(self) -> tuple[str, ...]:
        """Return the log keys of a validation, as patterns."""
        return ("val/accuracy_low", "val/accuracy_high", "val/balanced_accuracy",
                "val/recall_*", "val/precision_*", "val/images_*")  # fmt: skip

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count."""
        self._begin(pl_module)

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count."""
        self._begin(pl_module)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Count a batch."""
        self._count(outputs)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Count a batch."""
        self._count(outputs)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compute and log."""
        if not trainer.sanity_checking:
            self._report(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compute and log."""
        self._report(trainer, pl_module, "test")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Print the matrix of the last validation or test."""
        if not trainer.is_global_zero or self.matrix is None or self._names is None:
            return
        title = f"{_WORDS[self._stage]}: true classes in rows, predicted in columns"
        print_table(title, *_table(self.matrix, self._names))

    def _begin(self, pl_module: L.LightningModule) -> None:
        classes = int(getattr(getattr(pl_module, "head", None), "num_classes", 0) or 0)
        self._counted = None
        if classes < 2:
            return
        self._counted = MulticlassConfusionMatrix(classes, validate_args=False).to(pl_module.device)
        none = torch.empty(0, dtype=torch.int64, device=pl_module.device)
        self._counted.update(none, none)  # a rank may have no image at all

    def _count(self, outputs: STEP_OUTPUT) -> None:
        if self._counted is None or not isinstance(outputs, dict) or "logits" not in outputs:
            return
        self._counted.update(outputs["logits"].argmax(1), outputs["target"])

    def _report(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._counted is None:
            return
        matrix = self._counted.compute().cpu()
        self._counted = None
        if int(matrix.sum()) == 0:
            return
        found = classification(matrix)
        data: Any = getattr(trainer, "datamodule", None)
        task = getattr(data, "class_names", None)
        small = len(matrix) <= _MOST and task is not None
        self._stage = stage
        self.matrix, self._names = matrix, list(task) if small and task is not None else None
        own = measurement(f"{stage}/accuracy", found.accuracy, *found.interval)
        others = [measurement(f"{stage}/balanced_accuracy", found.balanced_accuracy)]
        if self._names is not None:
            others += _of_each(found, self._names, stage)
        log_measurements(trainer, pl_module, others)
        # the value itself is the model's to log
        pl_module.log_dict({own.low_key: found.interval[0], own.high_key: found.interval[1]}, batch_size=1)
        self.measurements = [own, *others]
        if self._names is not None:
            self._show(trainer, matrix, self._names, stage)

    def _show(self, trainer: L.Trainer, matrix: Tensor, names: Sequence[str], stage: str) -> None:
        columns, rows = _table(matrix, names)[::-1]
        if trainer.is_global_zero:
            save_file(trainer, f"confusion_{stage}.csv", csv_text([columns, *rows]).encode())
        log_media(
            trainer, f"pictures/confusion_{stage}", picture=confusion_picture(matrix, names, _WORDS[stage]),
            table=(columns, rows), save_as=f"confusion_{stage}.png",
        )  # fmt: skip


def _table(matrix: Tensor, names: Sequence[str]) -> tuple[list[list[object]], list[str]]:
    rows: list[list[object]] = [[name, *counts] for name, counts in zip(names, matrix.tolist(), strict=True)]
    return rows, ["true", *names]


def _of_each(found: ClassificationResult, names: Sequence[str], stage: str) -> list[Measurement]:
    """Make the measurements of single classes; what has no value, for want of images, is left out."""
    keys = [re.sub(r"[\s/]+", "_", name) for name in names]
    # an end of an interval of one class must not have the key of another
    if len({*keys}) < len(keys) or any(f"{key}_{end}" in keys for key in keys for end in ("low", "high")):
        keys = [str(number) for number in range(len(names))]
    made = []
    for place, (key, name) in enumerate(zip(keys, names, strict=True)):
        for what, value, count in (
            ("recall", found.recall[place], found.images[place]),
            ("precision", found.precision[place], found.predicted[place]),
        ):
            if not math.isnan(value):
                low, high = wilson(found.right[place], count)
                label = f"{_WORDS[stage]} {what}, {name}"
                made.append(Measurement(f"{stage}/{what}_{key}", value, low, high, True, label))
        made.append(Measurement(f"{stage}/images_{key}", found.images[place], form=".0f"))
    return made
