"""What a list of pairs says of its folds and flags is looked at, whoever made it."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules import DrawnFaces, DrawnPairs
from datamodules.verification.pair_list import PairList, checked_pairs
from datamodules.verification.readers import BinFaces, PairFaces, pairs_of, read_pairs
from lightning_app.evaluation.privacy import Subjects
from lightning_app.metrics import verification
from tests.datamodules.face_files import encoded, picture

FOLDS, EACH = 10, 6
SAME = [True] * EACH + [False] * EACH  # of a fold in LFW's order


def _lines(people: int = FOLDS) -> list[str]:
    """LFW's form and order: every fold has its own person, six same pairs, then six different ones."""
    return [
        line
        for k in range(people)
        for line in (
            *(f"p{k} {i} {i + 1}" for i in range(1, EACH + 1)),
            *(f"p{k} {i} q{k} {i}" for i in range(1, EACH + 1)),
        )
    ]


def _sorted(lines: list[str]) -> list[str]:
    return sorted(lines, key=lambda line: len(line.split()))


def _written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def _mixes(pairs: PairList) -> tuple[list[int], list[int]]:
    return pairs.folds[pairs.same].bincount().tolist(), pairs.folds[~pairs.same].bincount().tolist()


def _said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


class TestLFW:
    def test_what_its_header_says_is_kept_without_a_word(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        found = read_pairs(_written(tmp_path / "pairs.txt", f"{FOLDS}\t{EACH}", *_lines()))
        assert found.folds.tolist() == [fold for fold in range(FOLDS) for _ in SAME]
        assert found.same.tolist() == SAME * FOLDS
        assert _said(caplog) == []

    def test_sorted_by_kind_it_has_the_same_figures(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As InsightFace users write it: each fold of the header would have one kind alone."""
        lines = _lines()
        kept = read_pairs(_written(tmp_path / "lfw.txt", f"{FOLDS} {EACH}", *lines))
        found = read_pairs(_written(tmp_path / "sorted.txt", f"{FOLDS} {EACH}", *_sorted(lines)))
        assert _mixes(found) == ([EACH] * FOLDS, [EACH] * FOLDS)
        (line,) = _said(caplog)
        assert f"{tmp_path / 'sorted.txt'}: its folds are not of so many same and so many different" in line
        assert "10 folds with 0 … 12 same and 0 … 12 different pairs" in line
        assert "the 60 same and 60 different pairs are dealt anew into 10 folds" in line
        # scores by pair, whatever its place in the list
        score = dict(zip(lines, np.random.default_rng(0).random(120), strict=True))
        first, second = (
            verification([score[line] for line in order], of.same, of.folds, bootstrap=0)
            for order, of in ((lines, kept), (_sorted(lines), found))
        )
        assert (first.accuracy, first.std) == (second.accuracy, second.std)

    def test_other_numbers_than_the_header_s(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """One same pair too many in the first fold, one too few in the second."""
        lines = _lines(2)
        lines[EACH], lines[2 * EACH] = lines[2 * EACH], lines[EACH]
        found = read_pairs(_written(tmp_path / "pairs.txt", f"2 {EACH}", *lines))
        assert _mixes(found) == ([6, 6], [6, 6])
        assert "2 folds with 5 … 7 same and 5 … 7 different pairs" in _said(caplog)[0]

    def test_view_1_with_other_numbers(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        lines = [line for line in _lines(2) if line != "p0 1 q0 1"]
        read_pairs(_written(tmp_path / "dev.txt", str(2 * EACH), *lines, "p1 1 4"))
        assert "promises 12 same and 12 different pairs, it has 13 and 11" in _said(caplog)[0]

    def test_pairs_of_missing_images(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Folds lose some pairs and stay; where one loses a kind all are dealt anew."""
        faces = DrawnFaces(identities=8, images_per_identity=6, size=16)
        faces.write(tmp_path, count_per_class=12, folds=4)
        kept = PairFaces(tmp_path, size=16).pairs
        who = int(kept.labels[kept.a[12]])  # the first of a different pair in the first fold
        (tmp_path / faces.name(0)).unlink()
        some = PairFaces(tmp_path, size=16, missing="skip").pairs
        assert len(some.folds.unique()) == 4
        one = int((some.folds[some.same].bincount()).min())
        assert one >= 6
        caplog.clear()
        first = {kept.identities[int(kept.labels[i])] for i in kept.a[kept.folds == 0].tolist()}
        assert len(first) == 2, who
        for path in (tmp_path / sorted(first)[0]).iterdir():
            path.unlink()  # no different pair is left in the fold of two
        most = PairFaces(tmp_path, size=16, missing="skip").pairs
        assert min(map(min, _mixes(most))) >= 1
        assert any("without them: its folds are not" in line for line in _said(caplog))


class TestPaths:
    def test_a_wrong_column_of_folds_is_not_believed(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        same = [f"s{i}a.png s{i}b.png 1 {i // 6}" for i in range(12)]
        other = [f"d{i}a.png d{i}b.png 0 {2 + i // 6}" for i in range(12)]
        found = read_pairs(_written(tmp_path / "list.txt", *same, *other))
        assert _mixes(found) == ([3] * 4, [3] * 4)
        assert "4 folds with 0 … 6 same and 0 … 6 different pairs" in _said(caplog)[0]

    def test_folds_that_differ_a_little_are_kept_and_told(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        lines = [f"{i}a.png {i}b.png {i % 2} {7 if i < 30 else 3}" for i in range(50)]
        found = read_pairs(_written(tmp_path / "list.txt", *lines))
        assert found.folds.tolist() == [1] * 30 + [0] * 20
        assert _said(caplog) == [
            f"{tmp_path / 'list.txt'}: its folds are not of one size (2 folds with 10 … 15 same and 10 … 15 different "
            "pairs): kept as they are."
        ]

    def test_one_fold_is_dealt_into_ten(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        lines = [f"{i}a.png {i}b.png {i % 2} 1" for i in range(40)]
        found = read_pairs(_written(tmp_path / "list.txt", *lines))
        assert _mixes(found) == ([2] * 10, [2] * 10)
        assert "(one fold)" in _said(caplog)[0]

    def test_a_fold_on_some_lines_only(self, tmp_path: Path) -> None:
        path = _written(tmp_path / "list.txt", "a b 1 0", "c d 0 0", "e f 1", "g h 0 1")
        with pytest.raises(ValueError, match=r"list\.txt, line 3: has no fold, other lines have one"):
            read_pairs(path)

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (("a b 1", "c d 0", "b a 0"), r"line 3: 'b a 0' says different, line 1 says the opposite"),
            (
                ("a b 1", "c d 0", "./b .//a 0"),
                r"line 3: './b .//a 0' says different, line 1 says the opposite",
            ),
            (("x/a b 1", "x//c ./x/c 0"), r"line 2: 'x//c ./x/c 0' says that an image and itself"),
            (("a b 1", "c c 0"), r"line 2: 'c c 0' says that an image and itself show different people"),
            (("a b 1", "c d 1"), "2 same and 0 different pairs; both are needed"),
        ],
    )
    def test_what_cannot_be(self, tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            read_pairs(_written(tmp_path / "list.txt", *lines))

    def test_flags_against_folders(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        lines = [f"p{k}/1 p{k}/2 1" for k in range(9)] + [f"p{k}/1 q{k}/1 0" for k in range(9)]
        assert read_pairs(_written(tmp_path / "a.txt", *lines)).identities
        assert _said(caplog) == []
        found = read_pairs(_written(tmp_path / "b.txt", *lines, "p1/3 p1/4 0", "p2/1 p3/1 1"))
        assert found.identities == []
        (line,) = _said(caplog)
        assert "2 of 20 pairs say otherwise than their folders" in line
        assert "the first is line 19, 'p1/3 p1/4 0'" in line

    def test_repeats_and_images_with_themselves(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        lines = [f"s{i} t{i} 1" for i in range(10)] + [f"s{i} t{i + 1} 0" for i in range(10)]
        read_pairs(_written(tmp_path / "list.txt", "", *lines, "t0 s0 1", "s3 s3 1"))
        (line,) = [line for line in _said(caplog) if "mislead" in line]
        # lines of the file, which begins with an empty one
        assert "22 pairs mislead (pairs of an image with itself: 1, the first line 23; pairs that are" in line
        assert line.endswith("threshold: 1, the first line 2 and line 22).")

    def test_a_pair_of_one_fold_is_listed_again(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        lines = [f"s{i} t{i} 1 {i % 2}" for i in range(10)] + [f"s{i} t{i + 1} 0 {i % 2}" for i in range(10)]
        again = ["t4 s4 1 0", "s5 t6 0 1", "s6 t7 0 0", "t5 s5 1 1"]
        read_pairs(_written(tmp_path / "list.txt", *lines, *again))
        (line,) = [one.getMessage() for one in caplog.records if "again" in one.getMessage()]
        assert "of its 24 pairs 4 are listed again in their fold, and count twice" in line
        assert line.endswith("twice, the first line 5 and line 21.")

    def test_other_numbers_of_either_kind(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        lines = [f"{i}a {i}b {int(i % 4 == 0)}" for i in range(80)]
        found = read_pairs(_written(tmp_path / "list.txt", *lines))
        assert _mixes(found) == ([2] * 10, [6] * 10)
        (line,) = _said(caplog)
        assert (
            "20 same and 60 different pairs: an accuracy of 75 % is had by giving every pair one answer"
            in line
        )

    @pytest.mark.parametrize(("same", "told"), [(31, False), (33, True), (27, True)])
    def test_a_few_more_of_one_kind_are_nothing_to_tell(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, same: int, told: bool
    ) -> None:
        lines = [f"s{i} t{i} 1" for i in range(same)] + [f"s{i} t{i + 1} 0" for i in range(60 - same)]
        read_pairs(_written(tmp_path / "list.txt", *lines))
        assert any("is had by giving every pair one answer" in line for line in _said(caplog)) == told


class TestBin:
    def test_sorted_by_kind(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        images = [encoded(picture(i, "L", 8, 8), "PNG") for i in range(80)]
        (tmp_path / "a.bin").write_bytes(pickle.dumps((images, [True] * 20 + [False] * 20)))
        found = BinFaces(tmp_path / "a.bin", size=8)
        assert _mixes(found.pairs) == ([2] * 10, [2] * 10)
        (line,) = _said(caplog)
        assert "10 folds with 0 … 4 same and 0 … 4 different pairs" in line
        (tmp_path / "b.bin").write_bytes(pickle.dumps((images, ([True] * 2 + [False] * 2) * 10)))
        assert BinFaces(tmp_path / "b.bin", size=8).pairs.folds.tolist() == [i // 4 for i in range(40)]
        assert len(_said(caplog)) == 1
        assert [found.stable_name(i) for i in (0, 7)] == ["0", "7"]

    def test_one_kind_only(self, tmp_path: Path) -> None:
        images = [encoded(picture(i, "L", 8, 8), "PNG") for i in range(4)]
        (tmp_path / "a.bin").write_bytes(pickle.dumps((images, [True, True])))
        with pytest.raises(ValueError, match=r"bin=.*a\.bin: 2 same and 0 different pairs; both are needed"):
            BinFaces(tmp_path / "a.bin", size=8)


class ByHand(DrawnFaces):
    """A reader of one's own: 6 people, 20 pairs of the same and 20 of different people, in four folds by order."""

    def __init__(self, **other: Tensor) -> None:
        super().__init__(identities=8, images_per_identity=6, size=16)
        at = torch.arange(40)
        a, same, folds = other.get("a", at), other.get("same", at < 20), other.get("folds", at // 10)
        b = torch.where(at < 20, at // 6 * 6 + (at + 1) % 6, (at + 7) % 48)
        names = [self.name(i) for i in range(48)]
        self.pairs = PairList(names, a, b, same, folds, self.identities, self.labels)


class TestByHand:
    def test_it_is_dealt_anew_once(self, caplog: pytest.LogCaptureFixture) -> None:
        reader = ByHand()
        first = pairs_of(reader)
        assert _mixes(first) == ([5] * 4, [5] * 4)
        assert pairs_of(reader) is first is reader.pairs
        assert len(_said(caplog)) == 1
        assert "reader=ByHand: its folds are not of so many same" in caplog.text
        assert torch.equal(Subjects(ByHand()).pairs.folds, first.folds)

    def test_drawn_pairs_are_kept(self, caplog: pytest.LogCaptureFixture) -> None:
        reader = DrawnPairs(identities=8, images_per_identity=5, size=16, folds=4, pairs_per_fold=8)
        stated = reader.pairs.folds
        assert torch.equal(pairs_of(reader).folds, stated)
        assert _said(caplog) == []

    def test_flags_against_labels(self, caplog: pytest.LogCaptureFixture) -> None:
        a = torch.arange(40)
        pairs_of(ByHand(same=a % 2 == 0, folds=a // 4))
        assert "of 20 pairs the flag says otherwise than the labels" in caplog.text

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            ({"same": torch.ones(40, dtype=torch.bool)}, "40 same and 0 different pairs; both are needed"),
            ({"same": torch.arange(40) < 1}, "1 same and 39 different pairs are too few"),
            ({"a": torch.arange(40) + 9}, "its pairs' a holds 9 … 48; there are 48 images"),
            ({"folds": torch.arange(39)}, r"its pairs' folds is torch\.int64 \[39\]"),
            ({"folds": torch.rand(40)}, r"its pairs' folds is torch\.float32 \[40\]"),
            ({"same": torch.arange(40) % 3}, "same holds other numbers than 0 and 1"),
        ],
    )
    def test_what_cannot_be(self, other: dict[str, Tensor], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            pairs_of(ByHand(**other))

    def test_two_listed_pairs_are_too_few(self, tmp_path: Path) -> None:
        """They can be read, and not be verified on."""
        DrawnFaces(identities=2, images_per_identity=2, size=16).write(tmp_path, count_per_class=1, folds=2)
        paths = "Drawn_00000/Drawn_00000_0001 Drawn_0000{0}/Drawn_0000{0}_0002 {1}"
        listed = _written(tmp_path / "list.txt", paths.format(0, 1), paths.format(1, 0))
        with pytest.raises(ValueError, match="1 same and 1 different pairs are too few: a fold's threshold"):
            pairs_of(PairFaces(tmp_path, listed, size=16))


def test_verification_refuses_folds_of_one_kind() -> None:
    """Other folds to choose a threshold on have both kinds, and still."""
    same = [True, True, True, False, False, True]
    with pytest.raises(
        ValueError, match=r"fold 0 has 2 same-person and 0 different pairs: no different-person"
    ):
        verification(np.linspace(0, 1, 6), same, [0, 0, 1, 1, 2, 2])


def test_verification_says_that_folds_have_other_mixes(caplog: pytest.LogCaptureFixture) -> None:
    same = np.array([True] * 8 + [False] * 2 + [True] * 2 + [False] * 8)
    folds = np.arange(20) // 10
    verification(np.linspace(0, 1, 20), same, folds, bootstrap=0)
    assert "80 % of the pairs of fold 0 are of one person, of all pairs 50 %" in caplog.text
    caplog.clear()
    verification(np.linspace(0, 1, 20), same, np.arange(20) % 2, bootstrap=0)
    assert not caplog.records


def test_lists_that_were_looked_through_are_not_again(tmp_path: Path) -> None:
    found = read_pairs(_written(tmp_path / "pairs.txt", *_lines(2)))
    assert found.checked
    assert found.without(torch.tensor([0])).checked
    assert torch.equal(checked_pairs(found, len(found.names), "it").folds, found.folds)
