"""Folders of drawn faces, for a user without any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import DrawnFaces, FolderFaces
from datamodules.verification.pair_list import read_pairs
from tests.command_line import RunMain, refused


def test_it_draws_what_the_reader_reads(run_main: RunMain, capsys: pytest.CaptureFixture[str]) -> None:
    four = ("--people", 4, "--images", 3, "--size", 32, "--seed", 5, "--first", 7)
    run_main("draw-faces", *four, "--output", "faces", "--pairs")
    said = capsys.readouterr().out
    drawn = DrawnFaces(4, 3, 32, 5, 7)
    faces = FolderFaces("faces", size=32, cache_index=False).open()
    assert faces.identities == drawn.identities
    assert len(faces) == 12
    assert (faces.read(4) == drawn.read(4)).all()
    pairs = read_pairs("faces/pairs.txt")
    assert said == f"12 images of 4 drawn people, 32×32: faces, {len(pairs)} pairs in faces/pairs.txt\n"
    assert (np.asarray(Image.open("faces/Drawn_00007/Drawn_00007_0001.png")).shape) == (32, 32, 3)


def test_without_pairs_and_over_what_is_there(
    run_main: RunMain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = ("draw-faces", "--people", 2, "--images", 1, "--size", 16, "--output", "faces")
    run_main(*draw)
    assert not (tmp_path / "faces" / "pairs.txt").exists()
    assert "output: faces is not empty; give --overwrite" in refused(capsys, lambda: run_main(*draw))
    (tmp_path / "faces" / "mine.txt").write_text("mine")
    run_main(*draw, "--overwrite")
    assert (tmp_path / "faces" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--people", 1], "people: 1; give at least 2"),
        (["--images", 0], "images: 0; give at least 1"),
        (["--size", 8], "size=8: give a number from 16 to 1024"),
        (
            ["--people", 2, "--images", 1, "--pairs"],
            "pairs: people: 2, images: 1 are too few; give more images",
        ),
    ],
)
def test_what_cannot_be_drawn(
    args: list[object], message: str, run_main: RunMain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, lambda: run_main("draw-faces", "--output", "faces", *args))
    assert not (tmp_path / "faces").exists()


def test_drawn_faces_have_nothing_to_scan() -> None:
    faces = DrawnFaces(2, 1, 16)
    faces.scan()
    assert len(faces.open()) == 2
