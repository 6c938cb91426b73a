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
from lightning_app.runs.folder import put_log_aside

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
                logger.log_metrics({"lfw/accuracy": step / 250}, 1000 + step)
        logger.finalize("success")
    assert (tmp_path / "a/metrics.csv").read_bytes() == (tmp_path / "b/metrics.csv").read_bytes()


@pytest.mark.parametrize("saves", [True, False])
def test_figures_of_one_step_share_a_row(saves: bool, tmp_path: Path) -> None:
    """Lightning saves after every row; a row that is in the file already is filled there."""
    logger = CSVLog(tmp_path)
    for epoch in range(3):
        for metrics, step in (
            ({"epoch": epoch, "train/loss": 2.0}, 10 * epoch), ({"epoch": epoch, "lfw/accuracy": 0.5}, 10 * epoch + 9),
            ({"epoch": epoch, "train/loss": 1.0}, 10 * epoch + 9), ({"time/images_per_s": 7.0}, 10 * epoch + 9),
            ({"epoch": epoch, "train/loss": 1.5}, 10 * epoch + 9),  # contradicts what is there
        ):  # fmt: skip
            logger.log_metrics({**metrics}, step)
            if saves:
                logger.save()
    logger.finalize("success")
    rows = rows_of(tmp_path / "metrics.csv")
    assert [
        (row["step"], row["epoch"], row["train/loss"], row["lfw/accuracy"], row["time/images_per_s"])
        for row in rows
    ] == [
        row
        for n in range(3)
        for row in (
            (str(10 * n), str(n), "2.0", "", ""),
            (str(10 * n + 9), str(n), "1.0", "0.5", "7.0"),
            (str(10 * n + 9), str(n), "1.5", "", ""),
        )
    ]


def test_a_full_disk_spoils_no_row_that_is_filled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger, path = CSVLog(tmp_path), tmp_path / "metrics.csv"
    logger.log_metrics({"a": 1.0, "b": 2.0}, 0)
    for step in range(1, ROWS):
        logger.log_metrics({"a": 0.25}, step)
    logger.save()
    before = path.read_bytes()
    with files_no_larger_than(len(before) + 3):
        logger.log_metrics({"b": 0.123456789}, ROWS - 1)
        logger.save()
    assert path.read_bytes() == before
    logger.finalize("success")
    last = rows_of(path)[-1]
    assert (last["a"], last["b"]) == ("0.25", "0.123456789")


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
    assert caplog.messages[-1] == f"{tmp_path / 'metrics.csv'} lacks the last 1 row: the disk took no more"


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


def test_a_log_is_put_aside_where_no_other_lies(tmp_path: Path) -> None:
    for name in ("metrics.csv", "metrics.2.csv", "metrics.3.csv"):
        (tmp_path / name).write_text(name)
    put_log_aside(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "metrics.2.csv": "metrics.2.csv", "metrics.3.csv": "metrics.3.csv", "metrics.4.csv": "metrics.csv",
    }  # fmt: skip


def run_of(folder: Path, steps: range, key: str = "train/loss", goes_on: bool = True) -> CSVLog:
    logger = CSVLog(folder, goes_on=goes_on)
    logger.log_hyperparams({})
    for step in steps:
        logger.log_metrics({"epoch": step // 2, key: step / 10}, step)
    logger.finalize("success")
    return logger


@pytest.mark.parametrize("key", ["train/loss", "lfw/accuracy"])  # the same columns, and one more
def test_a_run_that_goes_on_goes_on_in_its_log(key: str, tmp_path: Path) -> None:
    run_of(tmp_path, range(5))
    run_of(tmp_path, range(5, 8), key)
    rows = rows_of(tmp_path / "metrics.csv")
    assert [int(row["step"]) for row in rows] == list(range(8))
    assert [row["train/loss"] for row in rows[:5]] == ["0.0", "0.1", "0.2", "0.3", "0.4"]
    assert [row[key] for row in rows[5:]] == ["0.5", "0.6", "0.7"]
    assert not list(tmp_path.glob("metrics.*.csv"))


def test_a_start_that_logs_nothing_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    run_of(tmp_path, range(3))
    before = (tmp_path / "metrics.csv").read_bytes()
    run_of(tmp_path, range(0))
    assert (tmp_path / "metrics.csv").read_bytes() == before
    assert not list(tmp_path.glob("metrics.*.csv"))


def test_of_steps_that_are_made_again_the_log_has_the_last(tmp_path: Path) -> None:
    run_of(tmp_path, range(6))
    before = (tmp_path / "metrics.csv").read_bytes()
    run_of(tmp_path, range(4, 8), "lfw/accuracy")
    rows = rows_of(tmp_path / "metrics.csv")
    assert [(int(row["step"]), bool(row["train/loss"])) for row in rows] == [
        (step, step < 4) for step in range(8)
    ]
    assert (tmp_path / "metrics.1.csv").read_bytes() == before
    run_of(tmp_path, range(2))  # from its first step again: nothing is left of the earlier ones
    assert [int(row["step"]) for row in rows_of(tmp_path / "metrics.csv")] == [0, 1]
    assert [int(row["step"]) for row in rows_of(tmp_path / "metrics.2.csv")] == list(range(8))


def test_the_end_of_an_epoch_is_before_the_step_that_follows(tmp_path: Path) -> None:
    """Lightning counts both as step 4."""
    rows: list[dict[str, float]] = [{"epoch": 0, "train/loss": 2.0}, {"epoch": 0, "val/loss": 1.5}]
    for following, steps in ((rows, (3, 4)), ([{"epoch": 1, "train/loss": 1.0}], (4,))):
        logger = CSVLog(tmp_path, goes_on=True)
        for row, step in zip(following, steps, strict=True):
            logger.log_metrics({**row}, step)
        logger.finalize("success")
    found = [(row["step"], row["epoch"]) for row in rows_of(tmp_path / "metrics.csv")]
    assert found == [("3", "0"), ("4", "0"), ("4", "1")]
    assert not list(tmp_path.glob("metrics.*.csv"))


@pytest.mark.parametrize("flaw", [b"1.5", b"\xff\xfe\x00", b"a\x00b\r\n"])
def test_a_torn_log_ends_no_training_and_loses_nothing(flaw: bytes, tmp_path: Path) -> None:
    run_of(tmp_path, range(3))
    path = tmp_path / "metrics.csv"
    torn = path.read_bytes() + flaw
    path.write_bytes(torn)
    run_of(tmp_path, range(3, 5))
    assert [int(row["step"]) for row in rows_of(path)][-2:] == [3, 4]
    assert (tmp_path / "metrics.1.csv").read_bytes() == torn


def test_a_full_disk_takes_nothing_of_a_log_that_goes_on(tmp_path: Path) -> None:
    run_of(tmp_path, range(ROWS))
    path = tmp_path / "metrics.csv"
    before = path.read_bytes()
    logger = CSVLog(tmp_path, goes_on=True)
    with files_no_larger_than(len(before) // 2):
        logger.log_metrics({"epoch": 0, "train/loss": 7.0}, ROWS // 2)
        logger.save()
        assert path.read_bytes() == before
    logger.finalize("success")
    rows = rows_of(path)
    assert [int(row["step"]) for row in rows] == list(range(ROWS // 2 + 1))
    assert (rows[-1]["train/loss"], path.with_name("metrics.1.csv").read_bytes()) == ("7.0", before)


def test_another_log_is_replaced(tmp_path: Path) -> None:
    run_of(tmp_path, range(5))
    run_of(tmp_path, range(2), goes_on=False)
    assert [int(row["step"]) for row in rows_of(tmp_path / "metrics.csv")] == [0, 1]


def test_a_sparse_log_that_came_with_a_run_is_put_aside(tmp_path: Path) -> None:
    """It is not read into memory, and what it is nobody knows: it stays, and a new log begins."""
    with (tmp_path / "metrics.csv").open("wb") as file:
        file.truncate(10**12)
    logger = CSVLog(tmp_path, goes_on=True)
    logger.log_metrics({"train/loss": 0.25}, 2)
    logger.save()
    assert (tmp_path / "metrics.1.csv").stat().st_size == 10**12
    assert rows_of(tmp_path / "metrics.csv") == [{"step": "2", "train/loss": "0.25"}]
