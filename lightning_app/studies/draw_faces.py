"""Folders of drawn faces, which are nobody's, to try every command on."""

from __future__ import annotations

from pathlib import Path

from rich import get_console

from datamodules.drawing.reader import DrawnFaces

_FOLDS = 10  # of a list of pairs, as LFW's has


def draw_faces(
    output: str,
    people: int = 25,
    images: int = 8,
    size: int = 112,
    seed: int = 0,
    first: int = 0,
    pairs: bool = False,
    overwrite: bool = False,
) -> None:
    """Draw faces of people who do not exist, one folder of PNG images each, to try every command on.

    Args:
        output: the folder to write, `OUTPUT/Drawn_00000/Drawn_00000_0001.png` and so on.
        people: how many people, at least 2.
        images: images of each person.
        size: height and width of the images in pixels, 16 … 1024.
        seed: seed of all faces; an image is a function of it and of the numbers of person and image.
        first: number of the first person. Give another range of people to verify on: `--first 1000`.
        pairs: also write `OUTPUT/pairs.txt`, a list of pairs in LFW's form: up to 300 of each kind in each of 10
            folds, or of fewer where the faces are few.
        overwrite: write into a folder that is not empty; files of other names stay.

    Raises:
        FileExistsError: the folder is not empty, and overwrite is off.
        ValueError: an argument is out of range, or `pairs` is asked of too few faces.
    """
    folder = Path(output)
    if folder.is_file():
        raise FileExistsError(f"output: {folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise FileExistsError(
            f"output: {folder} is not empty; give --overwrite to write into it, or another --output"
        )
    for name, value, least in (("people", people, 2), ("images", images, 1)):
        if value < least:
            raise ValueError(f"{name}: {value}; give at least {least}")
    faces = DrawnFaces(people, images, size, seed, first)
    folds = next((folds for folds in range(_FOLDS, 1, -1) if faces.most_pairs(folds)), None)
    if pairs and folds is None:
        raise ValueError(
            f"pairs: people: {people}, images: {images} are too few; give more images of each person"
        )
    made = []
    if pairs and folds is not None:
        made = faces.write(folder, folds=folds)
    else:
        faces.write_images(folder)
    listed = f", {len(made)} pairs in {folder / 'pairs.txt'}" if made else ""
    get_console().print(
        f"{len(faces)} images of {people} drawn people, {size}×{size}: {folder}{listed}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
