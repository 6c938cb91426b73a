"""The figures of a run as CSV, which a full disk neither ends nor spoils."""

from __future__ import annotations

import logging
from pathlib import Path

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from lightning_app.core.csv_text import csv_table, csv_text, read_csv_table
from lightning_app.core.files import write_atomically

log = logging.getLogger("faceveil")


class CSVLog(CSVLogger):
    """Lightning's CSVLogger, but a disk that takes nothing stops no training.

    Figures that cannot be written wait in memory for the next time, and one line says so. A full disk leaves no half
    row in `metrics.csv` and takes none of its rows.

    Args:
        save_dir: where `metrics.csv` and `hparams.yaml` go.
        version: a folder below it; none where it is empty.
    """

    def __init__(self, save_dir: str | Path, version: str = "") -> None:
        super().__init__(str(save_dir), name="", version=version)
        self._told = False

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The file, opened when first asked for, on rank zero alone."""
        if self._experiment is None:
            Path(self.root_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = _Table(self.log_dir)
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
                    "%s cannot be written (%s): training goes on, and its figures wait for room",
                    Path(self.log_dir) / "metrics.csv", error.strerror or error,
                )  # fmt: skip
            self._told = True

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what waits, or say what is lost."""
        super().finalize(status)
        if self._experiment is not None and (waiting := len(self.experiment.metrics)):
            log.warning("%s lacks the last %d rows: the disk took them no more",
                        Path(self.log_dir) / "metrics.csv", waiting)  # fmt: skip


class _Table(ExperimentWriter):
    """Rows that are in the file whole or not at all; a new column means a new file in the old one's place."""

    def save(self) -> None:
        if not self.metrics:
            return
        path = Path(self.metrics_file_path)
        keys = sorted(set(self.metrics_keys).union(*self.metrics))
        if keys == self.metrics_keys and path.is_file():
            rows = ([row.get(key, "") for key in keys] for row in self.metrics)
            _append(path, csv_text(rows, "\r\n").encode())
        else:
            earlier: list[dict[str, str]] = []
            if path.is_file():
                with path.open(newline="", encoding="utf-8") as file:
                    earlier = list(read_csv_table(file))
            write_atomically(path, csv_table(keys, [*earlier, *self.metrics], "\r\n"))
        self.metrics_keys, self.metrics = keys, []


def _append(path: Path, content: bytes) -> None:
    with path.open("ab", buffering=0) as file:  # a buffer would be written once more when the file is closed
        size = file.tell()
        try:
            while content:
                content = content[file.write(content) :]
        except OSError:
            file.truncate(size)
            raise
