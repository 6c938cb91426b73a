"""What a training measured stays, whatever is validated later in its folder."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from lightning_app.export.source import read_run
from lightning_app.models.checkpoints import read_recogniser
from lightning_app.report.tables import read_metrics, write_metrics
from lightning_app.report.trained import read_trained, write_later, write_trained
from tests.command_line import RunMain

FIT = {"run/steps": 4, "lfw/accuracy": 0.7, "train/loss": 1.0}


def test_what_is_validated_later_is_kept_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_trained(tmp_path, FIT)
    with caplog.at_level(logging.WARNING, "faceveil"):
        write_later(
            tmp_path, "validate", {"lfw/accuracy": 1.0, "lfw/accuracy_s2": 0.9, "time/validate_s": 2.0}
        )
    assert read_metrics(tmp_path / "metrics.json") == FIT | {"lfw/accuracy_s2": 0.9, "time/validate_s": 2.0}
    assert read_metrics(tmp_path / "metrics.validate.json")["lfw/accuracy"] == 1.0
    assert read_trained(tmp_path) == FIT
    assert "keeps what the training measured: 1 metrics are other ones now (lfw/accuracy)" in caplog.text
    caplog.clear()
    # what no training measured is of the latest
    write_later(tmp_path, "validate", {"lfw/accuracy": 0.7, "lfw/accuracy_s2": 0.8})
    assert read_metrics(tmp_path / "metrics.json")["lfw/accuracy_s2"] == 0.8
    assert caplog.text == ""


def test_runs_of_before_and_runs_that_are_verified_alone(tmp_path: Path) -> None:
    write_metrics(tmp_path / "metrics.json", FIT)  # as an earlier version wrote it
    write_later(tmp_path, "test", {"lfw/accuracy": 0.1})
    assert read_trained(tmp_path) == read_metrics(tmp_path / "metrics.json") == FIT
    alone = tmp_path / "alone"
    alone.mkdir()
    for accuracy in (0.6, 0.5):
        write_later(alone, "validate", {"lfw/accuracy": accuracy})
        assert read_metrics(alone / "metrics.json") == {"lfw/accuracy": accuracy}
    assert read_trained(alone) == {}


@pytest.mark.slow
def test_the_card_of_an_export_speaks_of_the_training(
    fitted: Path, tmp_path: Path, run_main: RunMain, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(fitted / "runs", tmp_path / "runs")
    run = tmp_path / "runs/tiny"
    before = json.loads((run / "metrics.json").read_text())
    given = ("validate", "--config", fitted / "tiny.yaml", "--runs", tmp_path / "runs", "--ckpt_path", "last")
    with caplog.at_level(logging.WARNING, "faceveil"):
        run_main(*given, "--data.init_args.desensitizer", "null")
    later = json.loads((run / "metrics.validate.json").read_text())
    assert later["lfw/accuracy"] != before["lfw/accuracy"]
    assert "keeps what the training measured" in caplog.text
    after = json.loads((run / "metrics.json").read_text())
    assert {key: after[key] for key in before} == before
    _, facts = read_recogniser(run)
    assert read_run(run, facts).metrics["lfw/accuracy"] == before["lfw/accuracy"]
