"""Lists of images with their labels, as text or CSV: read row by row, with errors that name the line."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_app.core.text_file import text_of

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


def rows_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Read a list's rows: cells of a `.csv`, words of any other file; empty lines are passed over.

    Args:
        path: text, see `lightning_app.core.text_file.text_of`.

    Yields:
        The line's number, from 1, and its cells without blanks around them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    file = io.StringIO(text_of(path.read_bytes(), str(path)), newline="")
    if path.suffix.lower() == ".csv":
        reader = csv.reader(file)
        try:
            for cells in reader:
                if cells:
                    yield reader.line_num, [cell.strip() for cell in cells]
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: no CSV that can be read ({error})") from error
    else:
        for number, line in enumerate(file, 1):
            if words := line.split():
                yield number, words


def find_file(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """Return the first file that is there, folder after folder; None where there is none.

    Args:
        folders: where to look.
        names: of the file, the preferred one first.
    """
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)


def whole_number(text: str, where: str) -> int:
    """Read a whole number of at most 18 digits, which fits into 64 bits.

    Args:
        text: as a list has it, in ASCII digits.
        where: it stands, for messages.

    Raises:
        ValueError: it is none.
    """
    if _WHOLE.fullmatch(text) is None:
        raise ValueError(f"{where}: {text[:40]!r} is no whole number of at most 18 digits")
    return int(text)


def classes_of(names: Sequence[str]) -> tuple[list[str], Tensor]:
    """Number classes in the order of their names.

    Args:
        names: of each image's class, N of them.

    Returns:
        The classes, sorted; and `[N]` int64, the number of each image's class.
    """
    classes, labels = np.unique(np.array(names, dtype=object), return_inverse=True)
    return [str(name) for name in classes], torch.from_numpy(labels.astype(np.int64))
