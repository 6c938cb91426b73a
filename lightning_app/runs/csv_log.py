"""The metrics of a run as CSV, which a full disk neither ends nor spoils."""

from __future__ import annotations

import csv
import logging
import os
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from lightning_app.core.csv_text import csv_table, csv_text, read_csv_table
from lightning_app.core.files import open_in_place, write_atomically
from lightning_app.core.printing import counted
from lightning_app.runs.folder import next_log, read_log

log = logging.getLogger("faceveil")


class CSVLog(CSVLogger):
    """Lightning's CSVLogger, but a disk that takes nothing stops no training.

    Metrics that cannot be written wait in memory for the next time, and one line says so. A full disk leaves no half
    row in `metrics.csv` and takes none of its rows.

    Args:
        save_dir: where `metrics.csv` and `hparams.yaml` go.
        version: a folder below it; none where it is empty.
        goes_on: whether a `metrics.csv` that lies there goes on: its rows stay, but for those of steps that are made
            again; then the file as it was is kept as `metrics.N.csv`. Otherwise it is replaced, as Lightning does.
    """

    def __init__(self, save_dir: str | Path, version: str = "", goes_on: bool = False) -> None:
        super().__init__(str(save_dir), name="", version=version)
        self._told, self._goes_on = False, goes_on

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The file, opened when first asked for, on rank zero alone."""
        if self._experiment is None:
            Path(self.root_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = _Table(self.log_dir, self._goes_on)
        assert isinstance(self._experiment, ExperimentWriter)
        return self._experiment

    @rank_zero_only
    def save(self) -> None:
        """Write what waits, or say that it waits."""
        try:
            super().save()
        except OSError as error:
            if not self._told:
                log.warning(
                    "%s cannot be written (%s): training goes on, and its metrics wait for room",
                    Path(self.log_dir) / "metrics.csv", error.strerror or error,
                )  # fmt: skip
            self._told = True

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what waits, or say what is lost."""
        super().finalize(status)
        if self._experiment is not None and (waiting := len(self.experiment.metrics)):
            log.warning("%s lacks the last %s: the disk took no more",
                        Path(self.log_dir) / "metrics.csv", counted(waiting, "row"))  # fmt: skip


class _Table(ExperimentWriter):
    """Rows that are in the file whole or not at all; a new column means a new file in the old one's place.

    Metrics of one step stand in one row: what is logged of a step after another row of it, and does not contradict it,
    is put into that row. So an epoch has one row, whatever logged its metrics.
    """

    _last: dict[str, Any] | None = None  # the row that ends the file
    _at = 0  # where it begins in the file
    _fills = False  # the first row that waits takes the place of the last one

    def __init__(self, log_dir: str, goes_on: bool) -> None:
        self._goes_on = goes_on  # until the first rows are written
        super().__init__(log_dir)

    def _check_log_dir_exists(self) -> None:
        if not self._goes_on:
            super()._check_log_dir_exists()

    def log_metrics(self, metrics_dict: dict[str, Any], step: int | None = None) -> None:
        """Take a row, or what a row lacks."""
        super().log_metrics(metrics_dict, step)
        row = self.metrics[-1]
        waiting = len(self.metrics) > 1
        before = self.metrics[-2] if waiting else self._last
        if before is None or any(key in before and before[key] != value for key, value in row.items()):
            return
        self.metrics[-2 if waiting else -1 :] = [before | row]
        self._fills = self._fills or not waiting

    def save(self) -> None:
        if not self.metrics:
            return
        path = Path(self.metrics_file_path)
        if self._goes_on:
            self.metrics_keys = _rewound(path, self.metrics[0])
            self._goes_on = False
        keys = sorted(set(self.metrics_keys).union(*self.metrics))
        if keys == self.metrics_keys and _is_own(path):
            rows = [csv_text([[row.get(key, "") for key in keys]], "\r\n").encode() for row in self.metrics]
            at = self._at if self._fills else path.stat().st_size
            _put(path, at, b"".join(rows))
            self._at = at + sum(map(len, rows[:-1]))
        else:
            earlier: list[dict[str, str]] = []
            if path.is_file():
                with path.open(newline="", encoding="utf-8") as file:
                    earlier = list(read_csv_table(file))
            whole = csv_table(
                keys, [*(earlier[:-1] if self._fills else earlier), *self.metrics], "\r\n"
            ).encode()
            write_atomically(path, whole)
            self._at = len(whole) - len(csv_table(keys, self.metrics[-1:], "\r\n").encode())
            self._at += len(csv_text([keys], "\r\n").encode())
        self._last, self._fills = self.metrics[-1], False
        self.metrics_keys, self.metrics = keys, []


def _rewound(path: Path, first: dict[str, Any]) -> list[str]:
    """Take what is logged again out of a log, which goes on there; keep it whole as `metrics.N.csv` if it has any.

    Args:
        path: `metrics.csv` of an earlier start, if there is one.
        first: the row that is logged next.

    Returns:
        Its columns; none where there is no such file, or none that can be gone on with.
    """
    if not path.is_file():
        return []
    try:
        rows = list(read_log(path))
    except (ValueError, csv.Error):  # not of ours: it is kept as it is, and a new one begins
        rows = [{}]
    kept = [row for row in rows if _is_before(row, first)]
    if len(kept) == len(rows) > 0:
        return sorted(rows[0])
    if not kept:
        path.rename(next_log(path.parent))
        return []
    write_atomically(next_log(path.parent), path.read_bytes())
    keys = sorted(kept[0])
    write_atomically(path, csv_table(keys, kept, "\r\n").encode())
    return keys


def _is_before(row: dict[str, str], first: dict[str, Any]) -> bool:
    """Return whether a row of the file is of an earlier step; the end of an epoch counts steps as the next begins."""
    if not (step := row.get("step", "")).isdecimal():  # a kill can leave a row torn
        return False
    epoch = row.get("epoch", "")
    again = epoch.isdecimal() and int(epoch) >= int(first.get("epoch", -1))
    return int(step) < int(first["step"]) or (int(step) == int(first["step"]) and not again)


def _is_own(path: Path) -> bool:
    """Return whether a file has one name, this; one that may lie elsewhere too is replaced, and not written into."""
    return path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1


def _put(path: Path, at: int, content: bytes) -> None:
    """Write what ends a file, from a place on: where the disk has no room for it the file stays as it was."""
    with open(
        open_in_place(path, os.O_RDWR), "r+b", buffering=0
    ) as file:  # a buffer would be written once more when the file is closed
        file.seek(at)
        before = file.read()
        file.seek(at)
        try:
            while content:
                content = content[file.write(content) :]
            file.truncate()
        except OSError:
            file.seek(at)
            file.write(before)  # where it was, so there is room
            file.truncate()
            raise
