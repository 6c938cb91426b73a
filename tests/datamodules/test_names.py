"""Names as other programs and systems write them: accents, encodings, case of suffixes, separators, LFW's layouts."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from datamodules import CelebAFaces, FERFaces, ReleasedFaces
from datamodules.evaluation_sets import with_classes
from datamodules.readers.class_folders import ClassFolders
from datamodules.readers.folder import FolderFaces
from datamodules.readers.lists import rows_of
from datamodules.readers.people import read_people
from datamodules.same_data import Split
from datamodules.verification.pair_list import read_pairs
from datamodules.verification.readers import PairFaces
from lightning_app.alignment.landmarks import LandmarkFile
from lightning_app.core.text_file import text_of
from lightning_app.desensitize import Precomputed
from tests.datamodules.face_files import encoded, make_tree, picture

ACCENTED = ["Zoë", "José", "Ann"]
PEOPLE = dict.fromkeys(ACCENTED, 3)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]  # the last two with a mark
FORMS = ["NFC", "NFD"]


def _in(form: str, text: str) -> str:
    return unicodedata.normalize(form, text)  # type: ignore[arg-type]


def _tree(root: Path, form: str, suffix: str = "") -> Path:
    make_tree(root, {_in(form, name): count for name, count in PEOPLE.items()})
    if suffix:
        for path in list(root.rglob("*.jpg")):
            path.rename(path.with_suffix(suffix))
    return root


def _pairs(form: str) -> str:
    same = [f"{name}\t1\t2\n{name}\t2\t3\n" for name in ACCENTED]
    other = [f"{a}\t{n}\t{b}\t{n}\n" for n in (1, 2) for a, b in zip(ACCENTED, ACCENTED[1:], strict=False)]
    return _in(form, "".join(same + other))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("listed", FORMS)
@pytest.mark.parametrize("stored", FORMS)
def test_accents_and_encodings(stored: str, listed: str, encoding: str, tmp_path: Path) -> None:
    root = _tree(tmp_path / "set", stored)
    (tmp_path / "people.txt").write_bytes(_in(listed, "José\nZoë\n").encode(encoding))
    faces = FolderFaces(root, people=tmp_path / "people.txt", cache_index=False).open()
    assert [_in("NFC", name) for name in faces.identities] == ["José", "Zoë"]
    assert len(faces) == 6
    (tmp_path / "pairs.txt").write_bytes(_pairs(listed).encode(encoding))
    pairs = PairFaces(root, tmp_path / "pairs.txt", size=16)
    assert len(pairs) == 9
    assert pairs.__getitems__(range(9))["image"].shape == (9, 3, 16, 16)


def test_one_list_in_both_forms_has_one_person(tmp_path: Path) -> None:
    """The same name in two spellings is the same person, not a pair of different ones."""
    lines = f"{_in('NFC', 'Zoë')} 1 {_in('NFD', 'Zoë')} 2\n" + "Ann 1 2\nAnn 1 Bob 1\nBob 2 Ann 2\n"
    (tmp_path / "pairs.txt").write_text(lines)
    found = read_pairs(tmp_path / "pairs.txt")
    assert found.same.tolist() == [True, True, False, False]
    assert found.identities == ["Ann", "Bob", "Zoë"]


@pytest.mark.parametrize("suffix", [".JPG", ".Jpg", ".JPEG", ".jpeg"])
def test_the_case_of_a_suffix_does_not_matter(suffix: str, tmp_path: Path) -> None:
    root = _tree(tmp_path / "set", "NFC", suffix)
    (tmp_path / "pairs.txt").write_text(_pairs("NFC"))
    assert len(PairFaces(root, tmp_path / "pairs.txt", size=16)) == 9
    paths = "Ann/Ann_0001.jpg Ann/Ann_0002.png 1\nAnn/Ann_0001.jpg José/José_0001 0\n" * 2
    (tmp_path / "paths.txt").write_text(paths)
    assert len(PairFaces(root, tmp_path / "paths.txt", size=16)) == 3


def test_backslashes_in_lists(tmp_path: Path) -> None:
    root = _tree(tmp_path / "set", "NFD")
    paths = "Ann\\Ann_0001.jpg Ann\\Ann_0002.jpg 1\n.\\Ann\\Ann_0003.jpg Zoë\\Zoë_0001.jpg 0\n" * 2
    (tmp_path / "pairs.txt").write_text(paths)
    pairs = PairFaces(root, tmp_path / "pairs.txt", size=16)
    assert [Path(pairs.name(i)).name[:3] for i in range(4)] == ["Ann", "Ann", "Ann", "Zoe"]
    (tmp_path / "people.txt").write_text(".\\Ann\\\r\nZoë/\r\n")
    assert len(FolderFaces(root, people=tmp_path / "people.txt", cache_index=False).open().identities) == 2


def test_a_kind_that_is_not_read_is_named(tmp_path: Path) -> None:
    root = _tree(tmp_path / "set", "NFC", ".bmp")
    (tmp_path / "pairs.txt").write_text("Ann/Ann_0001.bmp Ann/Ann_0002.bmp 1\nAnn/Ann_0001.bmp x/y.jpg 0\n")
    with pytest.raises(
        FileNotFoundError, match=r"3 of its 3 images are not in .* \(2 of them are there as \.bmp"
    ):
        PairFaces(root, tmp_path / "pairs.txt", size=16)


LAYOUTS = {
    "names": "Ann\nJosé\nZoë\n",
    "counts": "Ann\t3\nJosé\t3\nZoë\t3\n",
    "blanks": "Ann 3\nJosé   3\nZoë 3\n",
    "number first": "3\nAnn\t3\nJosé\t3\nZoë\t3\n",
    "folds": "2\n2\nAnn\t3\nJosé\t3\n1\nZoë\t3\n",
    "ten folds": "10\n" + "1\nAnn\t3\n" * 8 + "1\nJosé\t3\n1\nZoë\t3\n",
    "old ends of lines": "Ann\rJosé\rZoë",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_people(layout: str, tmp_path: Path) -> None:
    (tmp_path / "people.txt").write_bytes(LAYOUTS[layout].encode())
    assert {*read_people(tmp_path / "people.txt", {*ACCENTED, "Bob"}, "here")} == {*ACCENTED}


def test_labels_that_are_numbers_are_no_counts(tmp_path: Path) -> None:
    (tmp_path / "people.txt").write_text("2\n1\n7\n1\n3\n")
    assert read_people(tmp_path / "people.txt", set("1237"), "here") == ["2", "1", "7", "1", "3"]


def test_the_line_and_the_nearest_name_are_told(tmp_path: Path) -> None:
    (tmp_path / "people.txt").write_text("Ann\nGeorge_Bush\n")
    with pytest.raises(
        ValueError, match=r"people\.txt, line 2: 1 of 2 .*: George_Bush; .*there is George_W_Bush$"
    ):
        read_people(tmp_path / "people.txt", {"Ann", "George_W_Bush"}, "here")


def _people(path: Path) -> object:
    return read_people(path, {"Ann"}, "here")


@pytest.mark.parametrize("read", [_people, read_pairs, LandmarkFile, lambda path: list(rows_of(path))])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le"])
def test_another_encoding_is_refused_by_file_and_line(
    read: Callable[[Path], object], encoding: str, tmp_path: Path
) -> None:
    line, name = (2, "Zoë") if encoding == "latin-1" else (1, "Bob")
    (tmp_path / "list.txt").write_bytes(f"Ann 1 2\n{name} 1 2\n".encode(encoding))
    with pytest.raises(ValueError, match=rf"list\.txt is not UTF-8 text: line {line} .*save it as UTF-8"):
        read(tmp_path / "list.txt")


def test_half_a_character_of_utf_16() -> None:
    with pytest.raises(ValueError, match="x is not UTF-8 text, UTF-16-LE as its mark says,: line 2"):
        text_of("a\nb".encode("utf-16")[:-1], "x")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_landmarks(encoding: str, tmp_path: Path) -> None:
    numbers = ",".join(map(str, range(10)))
    rows = [f"{_in('NFD', 'Zoë')}\\1.jpg", "Ann/2.JPG", "./Bob/3.png"]
    (tmp_path / "l.csv").write_bytes("\n".join(f"{row},{numbers}" for row in rows).encode(encoding))
    found = LandmarkFile(tmp_path / "l.csv")
    for file in ("Zoë/1.JPG", _in("NFD", "Zoë/1.jpg"), "Ann/2.jpg", "Bob/3.PNG"):
        assert found.find(file) is not None, file


@pytest.mark.parametrize("stored", FORMS)
def test_classes(stored: str, tmp_path: Path) -> None:
    for split, form in (("train", stored), ("test", "NFC")):
        _tree(tmp_path / split, form)
    named = ClassFolders(tmp_path, classes=["Zoë", "José"], cache_index=False).open()
    assert len(named) == 6
    test = ClassFolders(tmp_path, split="test", classes=["Zoë", "José"], cache_index=False).open()
    numbered = with_classes(test, named.identities, "data.test")
    assert sorted(numbered.labels.tolist()) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["list.csv", "list.txt"])
def test_lists_of_labels(encoding: str, name: str, tmp_path: Path) -> None:
    separator = "," if name.endswith("csv") else " "
    (tmp_path / name).write_bytes(f"a.jpg{separator}1\r\n\r\nb.jpg{separator}2\r\n".encode(encoding))
    assert [cells for _, cells in rows_of(tmp_path / name)] == [["a.jpg", "1"], ["b.jpg", "2"]]


def test_what_lies_beside_is_no_match(tmp_path: Path) -> None:
    """Case matters in names: two people may differ by it."""
    root = tmp_path / "set"
    for name in ("ann", "bob"):
        (root / name).mkdir(parents=True)
        (root / name / "1.jpg").write_bytes(encoded(picture(1)))
    (tmp_path / "pairs.txt").write_text("Ann/1.jpg bob/1.jpg 0\nann/1.jpg ann/1.jpg 1\n" * 2)
    with pytest.raises(FileNotFoundError, match="1 of its 3 images are not in"):
        PairFaces(root, tmp_path / "pairs.txt", size=16)


@pytest.mark.parametrize("make", [
    lambda: FolderFaces(""), lambda: ClassFolders(""), lambda: FERFaces(""), lambda: CelebAFaces(""),
    lambda: ReleasedFaces(""), lambda: Precomputed(""),
], ids=["FolderFaces", "ClassFolders", "FERFaces", "CelebAFaces", "ReleasedFaces", "Precomputed"])  # fmt: skip
def test_an_empty_root_is_not_the_working_directory(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="root='': give a folder"):
        make()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Bob\\1.jpg Bob\\2.jpg", "Bob/1.jpg Bob/2.jpg"),
        ("Bob/1.jpg Bob/2.jpg", "Bob/2 Bob/1"),
        ("Bob/1 Bob/2", "Bob/1.JPG Bob/2"),
    ],
)
def test_spellings_of_one_file_are_one_image(
    one: str, other: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, name in enumerate(("Bob/1", "Bob/2", "Ann/1", "Ann/2")):
        path = tmp_path / "set" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number)))
    rest = "Ann/1.jpg Ann/2.jpg 1\nAnn/1.jpg Bob/1.jpg 0\nAnn/2.jpg Bob/1.jpg 0\n"
    listed = tmp_path / "pairs.txt"
    listed.write_text(f"{one} 1\n{other} 0\n{rest}")
    with pytest.raises(
        ValueError, match=r"pair of Bob/[12].jpg and Bob/[12].jpg, whose names are written in several"
    ):
        PairFaces(tmp_path / "set", listed, size=16)
    listed.write_text(f"{one} 1\n{other} 1\n{rest}")
    pairs = PairFaces(tmp_path / "set", listed, size=16)
    assert len(pairs) == 4
    assert len(pairs.pairs) == 5
    assert "are other spellings of one file" in caplog.text


def test_copies_of_a_file_are_one_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A pair of a file and its copy is no test of anything; `.bin` sets are looked through for them too."""
    for number, name in enumerate(("Bob/1", "Bob/2", "Ann/1")):
        path = tmp_path / "set" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number)))
    for name in ("Bob/1", "Ann/1"):
        (tmp_path / "set" / f"{name}b.jpg").write_bytes((tmp_path / "set" / f"{name}.jpg").read_bytes())
    listed = tmp_path / "pairs.txt"
    listed.write_text(
        "Bob/1.jpg Bob/1b.jpg 1\nBob/1b.jpg Bob/2.jpg 1\nBob/1b.jpg Ann/1.jpg 0\nBob/2.jpg Ann/1b.jpg 0\n"
    )
    pairs = PairFaces(tmp_path / "set", listed, size=16)
    assert [pairs.stable_name(n) for n in range(len(pairs))] == ["Bob/1.jpg", "Bob/2.jpg", "Ann/1.jpg"]
    assert (pairs.pairs.a.tolist(), pairs.pairs.b.tolist()) == ([0, 0, 0, 1], [0, 1, 2, 2])
    assert "2 of its 5 names are other spellings of one file, or files that are copies of it" in caplog.text
    listed.write_text("Bob/1.jpg Bob/2.jpg 1\nBob/1b.jpg Bob/2.jpg 0\nBob/1.jpg Ann/1.jpg 0\n")
    with pytest.raises(
        ValueError, match=r"pair of Bob/1\.jpg and Bob/2\.jpg, .* or which have copies, is listed as the"
    ):
        PairFaces(tmp_path / "set", listed, size=16)


def test_a_number_behind_a_name_is_a_count_on_every_line_alone(tmp_path: Path) -> None:
    listed = tmp_path / "people.txt"
    listed.write_text("Room 2\nHall\n")
    with pytest.raises(ValueError, match=r"line 1: 1 of 2 people have no images .*: Room 2"):
        read_people(listed, {"Room", "Hall"}, tmp_path)
    listed.write_text("Room 2\nHall 3\n")
    assert read_people(listed, {"Room", "Hall"}, tmp_path) == ["Room", "Hall"]
    listed.write_text("Room 2\t5\nHall\t3\n")  # the tab's are the counts: 2 is part of the name
    with pytest.raises(ValueError, match=r"line 1: 1 of 2 people have no images .*: Room 2"):
        read_people(listed, {"Room", "Hall"}, tmp_path)
    listed.write_text("room\nHall\n")
    with pytest.raises(ValueError, match="the nearest name there is Room"):
        read_people(listed, {"Room", "Hall"}, tmp_path)


def test_folders_that_look_alike_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_tree(tmp_path, {_in("NFC", "Zoë"): 2, _in("NFD", "Zoë"): 2, "Bob": 2, "Bob ": 2})
    faces = FolderFaces(tmp_path, cache_index=False).open()
    assert len(faces.identities) == 4
    assert "2 folders are called as another but for the spelling of accents, or for blanks" in caplog.text


@pytest.mark.parametrize(
    ("name", "told"),
    [("bob/Bob_0001.jpg", "Bob/Bob_0001.jpg is there: capital and small letters count"),
     ("set/Bob/Bob_0001.jpg", "it is under .*: give that as root"),
     ("Deep_0001.jpg", "it is under .*Deep: give that as root"),
     ("Bob/Bob_0001.gif", r"\(1 of them are there as .gif: only [^)]*\) \(missing: skip"),
     ("Nobody/1.jpg", "the first: Nobody/1.jpg \\(missing: skip")],
)  # fmt: skip
def test_where_a_missing_image_may_be(name: str, told: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    for person in ("Bob", "Ann", "Deep"):
        for number in (1, 2):
            path = root / person / f"{person}_{number:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture(1)))
    (root / "Bob" / "Bob_0001.gif").touch()
    (tmp_path / "pairs.txt").write_text(f"{name} Bob/Bob_0002.jpg 1\nAnn/Ann_0001.jpg Bob/Bob_0002.jpg 0\n")
    with pytest.raises(FileNotFoundError, match=told):
        PairFaces(root, tmp_path / "pairs.txt", size=16)


def test_pairs_of_other_pictures_under_the_same_names_are_another_set(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("Ann 1 2\nBob 1 2\nAnn 1 Bob 1\nAnn 2 Bob 2\n")
    found = []
    for root, shade in (("one", 10), ("copy", 10), ("other", 90)):
        for person in ("Ann", "Bob"):
            for number in (1, 2):
                path = tmp_path / root / person / f"{person}_{number:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (16, 16), shade + number).save(path)
        reader = PairFaces(tmp_path / root, tmp_path / "pairs.txt", size=16)
        found.append(Split(reader, 0.0, 0).facts["set"])
    assert found[0] == found[1] != found[2]
