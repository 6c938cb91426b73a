"""What the owner looks through: refused images as a list and in pictures, and the mean of the aligned ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from lightning_app.alignment.pixels import Undecodable, read_upright
from lightning_app.alignment.place import AlignOutcome
from lightning_app.alignment.similarity import Pixels
from lightning_app.core.csv_text import csv_text
from lightning_app.core.files import PRIVATE, write_atomically
from lightning_app.report.figures import png_bytes, rendered

COLUMNS = ("file", "reason", "width", "height", "faces", "central", "following", "interocular", "misfit")
_THUMB, _CAPTION, _GAP = 144, 34, 8  # pixels
_ACROSS, _DOWN = 8, 8
_DPI = 100
_LETTERS = 24  # that fit under a thumbnail


def review_csv(outcomes: Sequence[AlignOutcome]) -> bytes:
    """Write refused images as CSV, one per line.

    Args:
        outcomes: of the refused images, in the order of the contact sheets.

    Returns:
        UTF-8, a name that begins as a formula with an apostrophe before it (see `csv_text`). With a header:
        `file`, `reason`, `width` and `height` of the upright image in pixels, `faces` found, how far the most
        `central` and the `following` lie off the centre (in sides of a face), `interocular` distance in pixels,
        `misfit` to the template. What was not measured is empty.
    """
    rows: list[Sequence[object]] = [COLUMNS]
    for outcome in outcomes:
        values = [getattr(outcome, column) for column in COLUMNS]
        rows.append([f"{value:.3f}" if isinstance(value, float) else value for value in values])
    return csv_text(rows).encode("utf-8", "surrogateescape")  # names as the file system has them


def write_sheets(folder: Path, root: Path, outcomes: Sequence[AlignOutcome]) -> list[Path]:
    """Draw contact sheets of refused images: `review.png`, `review_2.png` and so on.

    They show raw faces: they stay with the owner, and neither a logger nor a release ever gets them. Sheets
    of an earlier review are removed.

    Args:
        folder: where to; the run's.
        root: folder of the set.
        outcomes: of the refused images.

    Returns:
        The files.
    """
    for earlier in folder.glob("review*.png"):
        earlier.unlink()
    files = []
    for number, sheet in enumerate(contact_sheets(root, outcomes), 1):
        name = "review.png" if number == 1 else f"review_{number}.png"
        files.append(write_atomically(folder / name, png_bytes(sheet), mode=PRIVATE))
    return files


def contact_sheets(root: Path, outcomes: Sequence[AlignOutcome]) -> Iterator[Image.Image]:
    """Draw refused images small, with the faces (boxes) and landmarks (dots) that were found.

    Args:
        root: folder of the set.
        outcomes: of the refused images.

    Yields:
        A picture of up to 64 images; under each its reason and the end of its path.
    """
    page = _ACROSS * _DOWN
    for start in range(0, len(outcomes), page):
        shown = outcomes[start : start + page]
        across = min(_ACROSS, len(shown))
        width = across * (_THUMB + _GAP) + _GAP
        height = -(-len(shown) // across) * (_THUMB + _CAPTION + _GAP) + _GAP
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
        for place, outcome in enumerate(shown):
            down, right = divmod(place, across)
            x, y = _GAP + right * (_THUMB + _GAP), _GAP + down * (_THUMB + _CAPTION + _GAP)
            figure.figimage(_thumbnail(root, outcome), xo=x, yo=height - y - _THUMB, origin="upper")
            name = outcome.file.encode("utf-8", "replace").decode()
            name = name if len(name) <= _LETTERS else f"…{name[1 - _LETTERS :]}"
            for line, words in enumerate((str(outcome.reason), name)):
                below = y + _THUMB + 13 + 14 * line
                # parse_math: a name with two $ is no formula
                figure.text(x / width, 1 - below / height, words, fontsize=7, parse_math=False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # names in any script
            yield rendered(figure)


def mean_face(files: Sequence[Path], most: int = 1000) -> Pixels:
    """Average aligned faces, to see whether eyes, nose and mouth came to lie on each other.

    A mean of many faces is still made of faces, and one of few resembles them: like the contact sheets it
    stays in the owner's run folder.

    Args:
        files: the aligned images, all of one size.
        most: take no more than so many, evenly spread over them.

    Returns:
        uint8 `[S,S,3]`.

    Raises:
        ValueError: there are no files.
        Undecodable: one of them cannot be decoded.
    """
    if not files:
        raise ValueError("mean face: no aligned image is there")
    chosen = [files[at * len(files) // min(most, len(files))] for at in range(min(most, len(files)))]
    total = np.zeros(())
    for file in chosen:
        pixels = read_upright(str(file))
        total = total + (pixels[..., None] if pixels.ndim == 2 else pixels)
    mean = np.rint(total / len(chosen)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(mean, (*mean.shape[:2], 3)))


def _thumbnail(root: Path, outcome: AlignOutcome) -> Pixels:
    """Draw one image on a grey square; crossed out where it cannot be decoded."""
    tile = Image.new("RGB", (_THUMB, _THUMB), (224, 224, 224))
    draw = ImageDraw.Draw(tile)
    try:
        image = Image.fromarray(read_upright(str(root / outcome.file))).convert("RGB")
    except Undecodable:
        draw.line((0, 0, _THUMB, _THUMB), (160, 0, 0), 2)
        draw.line((0, _THUMB, _THUMB, 0), (160, 0, 0), 2)
        return np.array(tile)
    by = _THUMB / max(image.size)
    small = image.resize((max(1, round(image.width * by)), max(1, round(image.height * by))))
    left, top = (_THUMB - small.width) // 2, (_THUMB - small.height) // 2
    tile.paste(small, (left, top))
    for box in outcome.boxes:
        draw.rectangle([edge * by + (left, top)[at % 2] for at, edge in enumerate(box)], outline=(0, 200, 0))
    for x, y in outcome.points:
        px, py = x * by + left, y * by + top
        draw.ellipse((px - 2, py - 2, px + 2, py + 2), fill=(255, 220, 0))
    return np.array(tile)
