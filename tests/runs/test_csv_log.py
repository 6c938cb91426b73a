"""The CSV of a run: Lightning's, and neither spoilt nor the end of a run on a full disk."""

from __future__ import annotations

import csv
import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from callbacks.media import save_picture
from lightning_app.runs.csv_log import CSVLog

ROWS = 400  # some 10 kB, so that what pytest captures stays below the limit that plays the full disk


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """The kernel then writes the part that still fits, and refuses the rest, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_writes_what_lightnings_writes(tmp_path: Path) -> None:
    ours, theirs = CSVLog(tmp_path / "a"), CSVLogger(str(tmp_path / "b"), name="", version="")
    for logger in (ours, theirs):
        for step in range(250):
            logger.log_metrics({"train/loss": 1 / (step + 1)}, step)
            if step > 120:
                logger.log_metrics({"lfw/accuracy": step / 250}, step)
        logger.finalize("success")
    assert (tmp_path / "a/metrics.csv").read_bytes() == (tmp_path / "b/metrics.csv").read_bytes()


@pytest.mark.parametrize("key", ["train/loss", "lfw/accuracy"])  # a row more, and a column more: a new file
def test_a_full_disk_spoils_nothing_and_what_waits_is_written_later(
    key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger, path = CSVLog(tmp_path), tmp_path / "metrics.csv"
    for step in range(ROWS):
        logger.log_metrics({"train/loss": 0.25}, step)
    logger.save()
    before = path.read_bytes()
    with files_no_larger_than(len(before) + 3), caplog.at_level(logging.WARNING, "faceveil"):
        for step in range(ROWS, 2 * ROWS):
            logger.log_metrics({key: 0.75}, step)
        logger.save()
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.csv"]
    (line,) = caplog.messages
    assert line.startswith(f"{path} cannot be written (File too large): training goes on")
    logger.finalize("success")
    rows = rows_of(path)
    assert [int(row["step"]) for row in rows] == list(range(2 * ROWS))
    assert [row[key] for row in rows[ROWS:]] == ["0.75"] * ROWS


def test_what_is_lost_at_the_end_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = CSVLog(tmp_path)
    for step in range(ROWS):
        logger.log_metrics({"train/loss": 0.25}, step)
    logger.save()
    logger.log_metrics({"train/loss": 0.75}, ROWS)
    size = (tmp_path / "metrics.csv").stat().st_size
    with files_no_larger_than(size + 3), caplog.at_level(logging.WARNING, "faceveil"):
        logger.finalize("success")
    assert (
        caplog.messages[-1] == f"{tmp_path / 'metrics.csv'} lacks the last 1 row: the disk took no more"
    )


def test_a_picture_that_does_not_fit_ends_no_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = L.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_checkpointing=False
    )
    noise = Image.effect_noise((200, 200), 99)
    assert trainer.state.fn is None
    with files_no_larger_than(20_000):
        with pytest.raises(OSError, match="File too large"):
            save_picture(trainer, "faces.png", noise)
        trainer.state.fn = "fit"  # type: ignore[assignment]
        with caplog.at_level(logging.WARNING, "faceveil"):
            save_picture(trainer, "faces.png", noise)
    line = caplog.messages[-1]
    assert line.endswith("faces.png cannot be written (File too large): training goes on without it")
    save_picture(trainer, "faces.png", noise)
    assert (Path(trainer.default_root_dir) / "faces.png").stat().st_size > 20_000
