"""Pictures and tables for the loggers that can take them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from callbacks.place import steps_done
from lightning_app.report import png_bytes, write_atomically

log = logging.getLogger("faceveil")


def log_media(
    trainer: L.Trainer,
    key: str,
    *,
    picture: Image.Image | None = None,
    table: tuple[Sequence[str], Sequence[Sequence[Any]]] | None = None,
    save_as: str | Path | None = None,
) -> None:
    """Send a picture or a table to every logger that takes one, on rank zero; the others are passed over.

    What goes in here leaves the house: raw faces of real data never do.

    Args:
        trainer: whose loggers and whose step.
        key: log key, such as `pictures/faces`.
        picture: a picture.
        table: the columns' heads and the rows.
        save_as: a file for the picture as well, written atomically; a relative one lies in the run folder.
    """
    if not trainer.is_global_zero:
        return
    if picture is not None and save_as is not None:
        save_picture(trainer, save_as, picture)
    for logger in trainer.loggers:
        if not isinstance(logger, WandbLogger):
            continue
        if picture is not None:
            logger.log_image(key, [picture], step=steps_done(trainer))
        if table is not None:
            columns, rows = table
            logger.log_table(key, list(columns), [list(row) for row in rows], step=steps_done(trainer))


def save_picture(trainer: L.Trainer, name: str | Path, picture: Image.Image) -> None:
    """Write a picture into the run folder; see `save_file`.

    Args:
        trainer: whose run folder.
        name: of the file; a relative one lies in the run folder.
        picture: to be written as PNG.

    Raises:
        OSError: it cannot be written, outside `fit`.
    """
    save_file(trainer, name, png_bytes(picture))


def save_file(trainer: L.Trainer, name: str | Path, content: bytes) -> None:
    """Write a file into the run folder, atomically; a disk that does not take it ends no training.

    Args:
        trainer: whose run folder; a trial (`fast_dev_run`) writes nothing.
        name: of the file; a relative one lies in the run folder.
        content: of the file.

    Raises:
        OSError: it cannot be written, outside `fit`.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    path = Path(trainer.default_root_dir) / name
    try:
        write_atomically(path, content)
    except OSError as error:
        if trainer.state.fn != "fit":
            raise
        log.warning("%s cannot be written (%s): training goes on without it", path, error.strerror or error)
