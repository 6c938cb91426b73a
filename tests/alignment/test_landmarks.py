from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lightning_app.alignment import LandmarkFile

TEN = [69, 109, 106, 113, 77, 142, 73, 152, 108, 154]
POINTS = [[69, 109], [106, 113], [77, 142], [73, 152], [108, 154]]
NAMES = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"


def text(separator: str) -> str:
    return separator.join(map(str, TEN))


@pytest.mark.parametrize(
    ("content", "file"),
    [
        (f"202599\n{NAMES}\n000001.jpg {'  '.join(map(str, TEN))}\n", "000001.jpg"),  # CelebA
        (f"image_id,{NAMES.replace(' ', ',')}\n000001.jpg,{text(',')}\n", "000001.jpg"),
        (f'"NAME_ID","P1X"{",P" * 9}\n"n000001/0001_01",{text(",")}\n', "n000001/0001_01.jpg"),  # VGGFace2
        (f"0000045/001.jpg\t0\t{text(chr(9))}\n", "0000045/001.jpg"),  # CASIA-WebFace with its label
        (f"Abel Pacheco/1.jpg\t{text(chr(9))}\r\n", "Abel Pacheco/1.jpg"),
        (f"\ufeff./a\\b.png {text(' ')}\n\n", "a/b.png"),
        (f'"Pacheco, Abel/1.jpg",{text(",")}\n', "Pacheco, Abel/1.jpg"),
        (f"a.jpg,{','.join(f'{v}.0e0' for v in TEN)}", "a.jpg"),
    ],
)
def test_published_lists_are_read(tmp_path: Path, content: str, file: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(content, encoding="utf-8", newline="")
    found = LandmarkFile(path).find(file)
    assert found is not None
    assert found[1].tolist() == POINTS
    assert LandmarkFile(path).find("other/" + file) is None


def test_the_five_x_may_come_first(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("a.jpg," + ",".join(map(str, np.array(POINTS).T.ravel())))
    found = LandmarkFile(path, "xxyy").find("a.jpg")
    assert found is not None
    assert found[1].tolist() == POINTS


def test_an_image_that_stands_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f"a.jpg,{text(',')}\na.jpg,{text(',')}\nb.jpg,{text(',')}\nb.jpg,{text(',')[:-1]}9\n")
    read = LandmarkFile(path)
    assert len(read) == 2
    assert (read.is_ambiguous("a.jpg"), read.is_ambiguous("b.jpg")) == (False, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no landmarks; give a list with a path and 10 numbers"),
        ("a.jpg 1 2 3\n", "line 1 of .* is 'a.jpg 1 2 3', not a path and 10 numbers"),
        (f"a.jpg {text(' ')}\nb.jpg {text(' ')[:-3]}nan\n", "line 2 of"),
        (f"a.jpg {text(' ')}\n{NAMES}\n", "line 2 of"),  # column names in the middle
        (f"a.jpg {text(' ')} 5 6\n", "line 1 of"),
    ],
)
def test_a_wrong_file_is_refused_by_its_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"^landmarks: .*{message}"):
        LandmarkFile(path)


@pytest.mark.parametrize("quoted", ['"' + "x" * 200_000 + '"', '"never ended'])
def test_a_field_that_is_no_path(quoted: str, tmp_path: Path) -> None:
    (tmp_path / "marks.csv").write_text(f"a.png{', 1' * 10}\n{quoted}{', 1' * 10}\n")
    with pytest.raises(ValueError, match=r"landmarks: line 2 of .*marks\.csv"):
        LandmarkFile(tmp_path / "marks.csv")


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"corrections: .* is no file"):
        LandmarkFile(tmp_path / "none.csv", argument="corrections")
    (tmp_path / "bytes").write_bytes(b"\xfe\xfe\x00\x80")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        LandmarkFile(tmp_path / "bytes")
