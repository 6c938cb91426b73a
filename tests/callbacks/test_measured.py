"""What a callback measures goes, label and direction with it, to the table, metrics.json and W&B."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
import pytest

from callbacks import Results
from callbacks.measured import log_measurements
from lightning_app.core.measurement import Measurement
from lightning_app.runs import loggers
from tests.callbacks.tiny_run import MakeTrainer, Recorder, TinyData, TinyModel


class GapBetweenGroups(L.Callback):
    """As somebody outside would write it."""

    def __init__(self) -> None:
        self.measurements: list[Measurement] = []

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.measurements = [Measurement("my/gap", 0.25, 0.125, 0.5, False, "accuracy gap between groups")]
        log_measurements(trainer, pl_module, self.measurements)


def test_a_metric_from_outside_reaches_table_file_and_wandb(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder()
    trainer = make_trainer(GapBetweenGroups(), Results(), epochs=1, logger=recorder)
    trainer.fit(TinyModel(), datamodule=TinyData())
    table = " ".join(capsys.readouterr().out.split())
    assert "accuracy gap between groups 0.2500 [0.1250, 0.5000]" in table
    assert "my/gap" not in table
    written = json.loads((Path(trainer.default_root_dir) / "metrics.json").read_text())
    assert {key: value for key, value in written.items() if key.startswith("my/")} == {
        "my/gap": 0.25, "my/gap_low": 0.125, "my/gap_high": 0.5
    }  # fmt: skip
    assert loggers._best("my/gap", recorder._better) == "min"  # lower is better: W&B keeps the lowest
    assert loggers._best("my/gap") is None  # no table of ours knows the key
