"""Sets of tasks that the tests write for themselves: class folders, CelebA's layouts, FER's."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules import DrawnFaces
from tests.datamodules.face_files import encoded, picture

CelebARow = tuple[str, dict[str, int], int | None, int | None]  # image, attributes, partition, identity


def drawn_classes(root: Path, splits: dict[str, int], classes: Sequence[str], size: int = 24) -> Path:
    """Class folders of drawn faces that are tinted by class, so that a small network learns them soon."""
    number = 0
    for split, each in splits.items():
        for place, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for image in range(each):
                number += 1
                face = (
                    DrawnFaces(2, 1, size, first_identity=100 * number)[0]["image"][0]
                    .permute(1, 2, 0)
                    .numpy()
                )
                tint = np.ones(3)
                tint[place % 3] = 0.3
                Image.fromarray((face * tint).astype(np.uint8)).save(
                    root / split / name / f"{name}_{image}.png"
                )
    return root


def write_celeba(root: Path, rows: Sequence[CelebARow], kaggle: bool = False, images: bool = True) -> Path:
    """CelebA's lists and images of 36×44 px; a partition or an identity of None has no row."""
    names = sorted({name for _, attributes, _, _ in rows for name in attributes})
    folder = root / "img_align_celeba" / ("img_align_celeba" if kaggle else "")
    folder.mkdir(parents=True, exist_ok=True)
    for number, (image, *_) in enumerate(rows):
        if images:
            (folder / image).write_bytes(encoded(picture(number, width=36, height=44)))
    values = [(image, *(attributes[name] for name in names)) for image, attributes, _, _ in rows]
    parts = [(image, part) for image, _, part, _ in rows if part is not None]
    people = [(image, who) for image, _, _, who in rows if who is not None]
    if kaggle:
        _csv(root / "list_attr_celeba.csv", [("image_id", *names), *values])
        _csv(root / "list_eval_partition.csv", [("image_id", "partition"), *parts])
    else:
        lines = [str(len(rows)), " ".join(names), *("  ".join(map(str, row)) for row in values)]
        (root / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
        (root / "list_eval_partition.txt").write_text("".join(f"{image} {part}\n" for image, part in parts))
    if people:
        (root / "identity_CelebA.txt").write_text("".join(f"{image} {who}\n" for image, who in people))
    return root


def hair(**true: int) -> dict[str, int]:
    """Attributes of one image: those given are 1, the others of five −1."""
    names = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Smiling")
    return {name: 1 if name in true else -1 for name in names}


VOTES_HEADER = (
    "Usage", "Image name", "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt",
    "unknown", "NF",
)  # fmt: skip
FERRow = tuple[str, int, Sequence[int]]  # usage, FER-2013's number, ten votes


def fer_pixels(row: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A picture of 48×48 that differs from row to row."""
    return np.asarray(picture(row, "L", 48, 48))


def write_fer(root: Path, rows: Sequence[FERRow], icml: bool = False, votes: bool = True) -> Path:
    """FER's CSVs; in `icml_face_data.csv` the columns stand in another order, with blanks in the header."""
    root.mkdir(parents=True, exist_ok=True)
    text = [" ".join(map(str, fer_pixels(row).ravel())) for row in range(len(rows))]
    if icml:
        lines: list[Sequence[object]] = [("emotion", " Usage", " pixels")]
        lines += [(number, usage, text[row]) for row, (usage, number, _) in enumerate(rows)]
        _csv(root / "icml_face_data.csv", lines)
    else:
        lines = [("emotion", "pixels", "Usage")]
        lines += [(number, text[row], usage) for row, (usage, number, _) in enumerate(rows)]
        _csv(root / "fer2013.csv", lines)
    if votes:
        named: list[Sequence[object]] = [VOTES_HEADER]
        for row, (usage, _, ten) in enumerate(rows):
            named.append((usage, f"fer{row:07d}.png" if sum(ten[:9]) else "", *ten))
        _csv(root / "fer2013new.csv", named)
    return root


def write_fer_folders(root: Path, rows: Sequence[FERRow]) -> Path:
    """FER+'s folders of the same rows."""
    folders = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
    lists: dict[str, list[Sequence[object]]] = {folder: [] for folder in folders.values()}
    for row, (usage, _, ten) in enumerate(rows):
        folder = root / folders[usage]
        folder.mkdir(parents=True, exist_ok=True)
        if sum(ten[:9]):
            Image.fromarray(fer_pixels(row)).save(folder / f"fer{row:07d}.png")
            lists[folder.name].append((f"fer{row:07d}.png", "(0, 0, 48, 48)", *ten))
    for name, cells in lists.items():
        if cells:
            _csv(root / name / "label.csv", cells)
    return root


def _csv(path: Path, rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
