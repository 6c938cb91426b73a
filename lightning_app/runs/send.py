"""Copies of a command's report for the loggers that its config names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from PIL import Image

from lightning_app.runs.loggers import WandbLogger


def every_logger(given: Logger | list[Logger] | None) -> list[Logger]:
    """Return the loggers of an option that takes one, several or none.

    Args:
        given: the option's value.
    """
    return given if isinstance(given, list) else [] if given is None else [given]


def send_report(
    loggers: Sequence[Logger],
    folder: Path,
    key: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[object]],
    picture: Image.Image | None,
    numbers: Mapping[str, float],
) -> None:
    """Send copies of a command's report: the numbers to every logger, table and picture to W&B, in the group.

    Args:
        loggers: where to; each is finalized.
        folder: `runs/<name>`; its name is the W&B group.
        key: first part of the log keys `KEY/table` and `KEY/picture`.
        heads: of the table's columns.
        rows: of the table.
        picture: one without faces, or none.
        numbers: log key → finite metric.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.use_run_dir(folder)
            logger.use_group(folder.resolve().name)
        if isinstance(logger, LightningWandbLogger):
            logger.log_table(f"{key}/table", list(heads), [list(row) for row in rows])
            if picture is not None:
                logger.log_image(f"{key}/picture", [picture])
        logger.log_metrics(dict(numbers))
        logger.finalize("success")
