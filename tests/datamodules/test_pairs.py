from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.readers.decode import decode
from datamodules.verification.readers import PairFaces, read_pairs
from tests.datamodules.face_files import encoded, make_tree, picture


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


LFW = """2	2
ann	1	2
cyd	1	3
ann	1	bob	1
ann	3	cyd	4
cyd	2	4
ann	2	3
bob	1	cyd	1
bob	1	ann	2
"""


class TestLists:
    def test_lfw(self, tmp_path: Path) -> None:
        found = read_pairs(_written(tmp_path / "pairs.txt", LFW))
        assert len(found) == 8
        named = [
            (found.names[a], found.names[b]) for a, b in zip(found.a.tolist(), found.b.tolist(), strict=True)
        ]
        assert named[0] == ("ann/ann_0001", "ann/ann_0002")
        assert named[3] == ("ann/ann_0003", "cyd/cyd_0004")
        assert found.same.tolist() == [True, True, False, False, True, True, False, False]
        assert found.folds.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
        assert len(found.names) == len(set(found.names)) == 8
        assert found.identities == ["ann", "bob", "cyd"]
        people = [found.identities[i] for i in found.labels.tolist()]
        assert people == [name.split("/")[0] for name in found.names]
        assert (found.a.dtype, found.same.dtype, found.folds.dtype) == (torch.int64, torch.bool, torch.int64)

    def test_commas_separate_counts_too(self, tmp_path: Path) -> None:
        tabs = read_pairs(_written(tmp_path / "tabs.txt", LFW))
        commas = read_pairs(_written(tmp_path / "commas.txt", LFW.replace("\t", ",")))
        assert commas.names == tabs.names
        assert commas.folds.tolist() == tabs.folds.tolist()

    @pytest.mark.parametrize("header", ["3\n", ""])
    def test_without_folds(self, tmp_path: Path, header: str) -> None:
        text = header + "ann 1 2\nann 1 3\nann 2 3\n\nann 1 bob 1\nann 2 bob 1\nann 3 bob 1\n"
        found = read_pairs(_written(tmp_path / "dev.txt", text))
        assert found.same.tolist() == [True] * 3 + [False] * 3
        assert found.folds.tolist() == [0, 1, 2, 0, 1, 2]  # fewer than ten of a kind: as many folds as pairs

    def test_ten_folds_by_default(self, tmp_path: Path) -> None:
        lines = [f"ann {i} {i + 1}" for i in range(1, 26)] + [f"ann {i} bob {i}" for i in range(1, 41)]
        found = read_pairs(_written(tmp_path / "dev.txt", "\n".join(lines)))
        for kind, low, high in ((found.same, 2, 3), (~found.same, 4, 4)):
            counts = found.folds[kind].bincount()
            assert len(counts) == 10
            assert low <= int(counts.min()) <= int(counts.max()) <= high
            assert bool((found.folds[kind].diff() >= 0).all())

    def test_names_with_spaces_in_tabs(self, tmp_path: Path) -> None:
        found = read_pairs(_written(tmp_path / "pairs.txt", "Ann Lee\t1\t2\nAnn Lee\t1\tBob Roe\t12\n"))
        assert found.names == ["Ann Lee/Ann Lee_0001", "Ann Lee/Ann Lee_0002", "Bob Roe/Bob Roe_0012"]

    @pytest.mark.parametrize(
        "text",
        [
            '"Ann Lee" 1 2\n"Ann Lee" 1 "Bob Roe" 12\n',
            '"Ann Lee"\t1\t2\n"Ann Lee"\t1\tBob Roe\t12\n',
            '"Ann Lee",1,2\n"Ann Lee",1,Bob Roe,12\n',
            'Ann Lee, 1, 2\nAnn Lee, 1, "Bob Roe", 12\n',
        ],
    )
    def test_names_with_spaces_in_quotes(self, tmp_path: Path, text: str) -> None:
        found = read_pairs(_written(tmp_path / "pairs.txt", text))
        assert found.names == ["Ann Lee/Ann Lee_0001", "Ann Lee/Ann Lee_0002", "Bob Roe/Bob Roe_0012"]

    def test_quotes_hold_what_separates(self, tmp_path: Path) -> None:
        text = '"x y/a, b.jpg" "x y/c.jpg" 1\n"x y/a, b.jpg" "O\'Roe/d, e, f.jpg" 0\n'
        found = read_pairs(_written(tmp_path / "pairs.txt", text))
        assert found.names == ["x y/a, b.jpg", "x y/c.jpg", "O'Roe/d, e, f.jpg"]
        plain = read_pairs(_written(tmp_path / "plain.txt", "O'Roe 1 2\nO'Roe 1 D\"Arc 2\n"))
        assert plain.names == ["O'Roe/O'Roe_0001", "O'Roe/O'Roe_0002", 'D"Arc/D"Arc_0002']

    @pytest.mark.parametrize("line", ["Ann Lee 3 2", "Ann Lee 1 Bob Roe 12", "my x/a.jpg my y/b.jpg 0"])
    def test_names_with_spaces_alone_say_what_to_do(self, tmp_path: Path, line: str) -> None:
        with pytest.raises(ValueError, match=r"line 1: .* is no pair") as caught:
            read_pairs(_written(tmp_path / "pairs.txt", f"{line}\nann 1 bob 1\n"))
        assert str(caught.value).endswith(
            "; a name with spaces: put a tab between the columns, or the name in double quotes"
        )

    def test_names_with_spaces_that_read_as_images(self, tree: Path, tmp_path: Path) -> None:
        said = "a name with spaces: put a tab between the columns, or the name in double quotes"
        mixed = _written(tmp_path / "mixed.txt", "Ann Lee 1 2\nx/a.jpg y.png 0\n")
        with pytest.raises(ValueError, match=rf"line 2: has no fold.* \({said}\)$"):
            read_pairs(mixed)
        alone = _written(tmp_path / "alone.txt", "Ann Lee 1 2\nAnn Roe 0 2\nBob Lee 1 3\nBob Roe 0 3\n")
        with pytest.raises(FileNotFoundError, match=rf"4 of its 4 images are not in .*; {said}$"):
            PairFaces(tree, alone)

    @pytest.mark.parametrize(
        "text",
        [
            "x/a.jpg x/b.jpg 1\nx/a.jpg y.png 0\n",
            "path1,path2,same\nx/a.jpg,x/b.jpg,1\nx/a.jpg,y.png,0\n",
            "\ufeffx/a.jpg\tx/b.jpg\t1\n\nx/a.jpg\ty.png\t0\n",
        ],
    )
    def test_paths(self, tmp_path: Path, text: str) -> None:
        found = read_pairs(_written(tmp_path / "mine.csv", text))
        assert found.names == ["x/a.jpg", "x/b.jpg", "y.png"]
        assert found.a.tolist() == [0, 0]
        assert found.b.tolist() == [1, 2]
        assert found.same.tolist() == [True, False]
        assert found.identities == []
        assert found.labels.tolist() == [-1, -1, -1]

    def test_folders_of_paths_are_people(self, tmp_path: Path) -> None:
        text = "ann/1.jpg ann/2.jpg 1\nann/1.jpg bob/1.jpg 0\n"
        found = read_pairs(_written(tmp_path / "mine.txt", text))
        assert found.identities == ["ann", "bob"]
        assert found.labels.tolist() == [0, 0, 1]
        deeper = read_pairs(
            _written(tmp_path / "mine.txt", text.replace("ann/", "set/ann/").replace("bob/", "old/bob/"))
        )
        assert deeper.identities == ["ann", "bob"]
        alike = read_pairs(
            _written(tmp_path / "mine.txt", text.replace("ann/", "a/7/").replace("bob/", "b/7/"))
        )
        assert alike.identities == ["a/7", "b/7"]

    @pytest.mark.parametrize(
        "text",
        [
            "probe/ann.jpg gallery/ann.jpg 1\nprobe/ann.jpg gallery/bob.jpg 0\n",
            "all/1.jpg all/2.jpg 1\nall/1.jpg all/3.jpg 0\n",
            "1.jpg 2.jpg 1\n1.jpg 3.jpg 0\n",
        ],
    )
    def test_folders_that_are_no_people(self, tmp_path: Path, text: str) -> None:
        found = read_pairs(_written(tmp_path / "mine.txt", text))
        assert found.identities == []
        assert set(found.labels.tolist()) == {-1}

    def test_paths_with_folds(self, tmp_path: Path) -> None:
        text = "a.jpg b.jpg 1 7\na.jpg c.jpg 0 7\nb.jpg c.jpg 0 3\nc.jpg d.jpg 1 3\n"
        assert read_pairs(_written(tmp_path / "mine.txt", text)).folds.tolist() == [1, 1, 0, 0]

    def test_pattern(self, tmp_path: Path) -> None:
        path = _written(tmp_path / "pairs.txt", "ann 1 2\nann 1 bob 1\n")
        assert read_pairs(path, "{name}/{number}").names == ["ann/1", "ann/2", "bob/1"]

    @pytest.mark.parametrize(
        "pattern",
        [
            "{name}/{number:999999999}",
            "{name.__class__}/{number}",
            "{name}/{0}",
            "{number!r}",
            "{name",
            "{name:>9999}",
        ],
    )
    def test_a_pattern_of_another_form(self, tmp_path: Path, pattern: str) -> None:
        """One ended in an IndexError, another took a gigabyte a line; a config beside a checkpoint may name it."""
        path = _written(tmp_path / "pairs.txt", "ann 1 2\nann 1 bob 1\n")
        with pytest.raises(
            ValueError, match=r"^pattern='.*; give one such as \{name\}/\{name\}_\{number:04d\}"
        ):
            read_pairs(path, pattern)

    @pytest.mark.parametrize(
        ("line", "shown"),
        [
            ("ann\t1", "'ann\\t1'"),
            ("ann\t1\ttwo", "'ann\\t1\\ttwo'"),
            ("a.jpg b.jpg 2", "'a.jpg b.jpg 2'"),
            ("a.jpg b.jpg 1 x", "'a.jpg b.jpg 1 x'"),
            ("ann 1 bob 1 5", "'ann 1 bob 1 5'"),
        ],
    )
    def test_bad_line(self, tmp_path: Path, line: str, shown: str) -> None:
        path = _written(tmp_path / "pairs.txt", f"ann 1 2\n\n{line}\nann 1 bob 1\n")
        with pytest.raises(ValueError, match="line 3") as caught:
            read_pairs(path)
        assert str(caught.value).startswith(f"{path}, line 3: {shown} is no pair; 'name i j'")

    @pytest.mark.parametrize(
        "line",
        [
            "../x\t1\t2", "ann\t1\t../../bob\t1", "a/../../b 1 2", "/etc/passwd x.png 1", "x.png ../y.png 0 3",
            "..\\y.png x.png 1", "C:\\y.png x.png 0", "\\\\host\\y x.png 0", "/ann 1 2", ".. 1 2",
        ],
    )  # fmt: skip
    def test_a_name_that_leads_out_of_the_root(self, tmp_path: Path, line: str) -> None:
        path = _written(tmp_path / "pairs.txt", f"ann 1 2\n{line}\n")
        with pytest.raises(ValueError, match=r"pairs\.txt, line 2: .* leads out of the folder of images"):
            read_pairs(path)

    def test_dots_that_lead_nowhere(self, tmp_path: Path) -> None:
        found = read_pairs(
            _written(tmp_path / "pairs.txt", "a..b/x.png ./c/y..png 1\nd/...png a..b/x.png 0\n")
        )
        assert found.names == ["a..b/x.png", "c/y..png", "d/...png"]

    @pytest.mark.parametrize(
        "head", ["999999999 999999999", "9" * 5000, "²", "1 " + "9" * 5000, f"ann {'9' * 5000} 2", "ann ² 2"]
    )
    def test_absurd_counts(self, tmp_path: Path, head: str) -> None:
        path = _written(tmp_path / "pairs.txt", f"{head}\nann 1 2\nann 1 bob 1\n")
        with pytest.raises(
            ValueError, match=r"pairs\.txt(, line 1: .* is no pair|: its first line promises)"
        ) as raised:
            read_pairs(path)
        assert len(str(raised.value)) < 600

    def test_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "pairs.txt").write_bytes(b"ann\xff 1 2\n")
        with pytest.raises(ValueError, match=r"pairs=.*pairs\.txt is not UTF-8 text"):
            read_pairs(tmp_path / "pairs.txt")

    def test_bad_header(self, tmp_path: Path) -> None:
        path = _written(tmp_path / "pairs.txt", LFW.replace("2\t2\n", "10\t300\n", 1))
        with pytest.raises(ValueError, match=r"promises 10 × 2 × 300 = 6000 pairs, it has 8$"):
            read_pairs(path)

    @pytest.mark.parametrize("text", ["", "ann 1 2\n", "ann 1 bob 2\n", "10\t300\n"])
    def test_one_kind_only(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(ValueError, match=r"pairs\.txt: .*(both are needed|it has 0)$"):
            read_pairs(_written(tmp_path / "pairs.txt", text))

    def test_no_list(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"pairs=.*none\.txt: no such file"):
            read_pairs(tmp_path / "none.txt")


class TestReader:
    def test_a_list_that_lies_below_the_root_is_named(
        self, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tree / "mine.txt").write_text("")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        with pytest.raises(
            FileNotFoundError, match=r"^pairs=mine\.txt: no such file, seen from here; "
        ) as found:
            PairFaces(tree, "mine.txt")
        assert str(found.value).endswith(f"{tree / 'mine.txt'} is there: give that path")

    def test_images_once_each(self, tree: Path, tmp_path: Path) -> None:
        reader = PairFaces(tree, _written(tmp_path / "list.txt", LFW), size=20)
        assert len(reader) == len(reader.pairs.names) == 8
        assert reader.identities == ["ann", "bob", "cyd"]
        batch = reader.__getitems__([int(reader.pairs.a[3]), int(reader.pairs.b[3])])
        for row, name in enumerate(["ann/ann_0003.jpg", "cyd/cyd_0004.jpg"]):
            expected = decode((tree / name).read_bytes(), None, 20, name)
            np.testing.assert_array_equal(batch["image"][row, :1].numpy(), expected)
        assert batch["identity"].tolist() == [0, 2]
        again = pickle.loads(pickle.dumps(reader))
        assert torch.equal(again.__getitems__(range(8))["image"], reader.__getitems__(range(8))["image"])

    @pytest.mark.parametrize("place", ["faces/pairs.txt", "pairs.txt"])
    def test_list_beside_the_images(self, tree: Path, tmp_path: Path, place: str) -> None:
        _written(tmp_path / place, LFW)
        assert len(PairFaces(tree).pairs) == 8

    @pytest.mark.parametrize("kind", ["PNG", "WEBP"])
    def test_other_suffixes(self, tmp_path: Path, kind: str) -> None:
        root = make_tree(tmp_path / "released", {"ann": 3, "bob": 1, "cyd": 4}, kind=kind)
        assert len(PairFaces(root, _written(tmp_path / "list.txt", LFW))) == 8
        paths = "ann/ann_0001.jpg ann/ann_0002.jpg 1\nann/ann_0001.jpg bob/bob_0001.jpg 0\n"
        reader = PairFaces(root, _written(tmp_path / "mine.txt", paths), size=20)
        assert reader.name(2) == str(root / "bob" / f"bob_0001.{kind.lower()}")
        assert reader[0]["identity"].tolist() == [0]

    def test_links_out_of_the_root_are_not_followed_into_a_release(self, tmp_path: Path) -> None:
        tree = make_tree(tmp_path / "tree", {"ann": 2, "bob": 1})
        (tree / "bob/bob_0002.jpg").symlink_to(tmp_path / "other.jpg")
        (tmp_path / "other.jpg").write_bytes(encoded(picture(9)))
        pairs = _written(tmp_path / "pairs.txt", "ann 1 2\nann 1 bob 2\n")
        reader = PairFaces(tree, pairs, size=20)
        assert reader[2]["image"].shape == (1, 3, 20, 20)  # followed, as FolderFaces does
        reader.strict = True
        with pytest.raises(ValueError, match="lies outside the tree"):
            reader.__getitems__([2])

    def test_missing_images(self, tree: Path, tmp_path: Path) -> None:
        pairs = _written(tmp_path / "list.txt", LFW)
        for name in ("ann/ann_0001.jpg", "cyd/cyd_0001.jpg", "cyd/cyd_0003.jpg", "cyd/cyd_0004.jpg"):
            (tree / name).unlink()
        with pytest.raises(
            FileNotFoundError,
            match=r"pairs=.*: 4 of its 8 images are not in .*, the first: ann/ann_0001, cyd/cyd_0001, "
            r"cyd/cyd_0003 \(missing: skip leaves their pairs out\)$",
        ):
            PairFaces(tree, pairs)

    def test_missing_skipped(self, tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        pairs = _written(tmp_path / "list.txt", LFW)
        for name in ("cyd/cyd_0001.jpg", "cyd/cyd_0002.jpg", "cyd/cyd_0004.jpg"):
            (tree / name).unlink()
        with caplog.at_level(logging.WARNING):
            reader = PairFaces(tree, pairs, size=20, missing="skip")
        assert "3 of its 8 images are not in" in caplog.text
        assert "4 of 8 pairs left out" in caplog.text
        # left: ann 1 2, ann 1 bob 1, ann 2 3, bob 1 ann 2
        assert reader.pairs.same.tolist() == [True, False, True, False]
        assert reader.pairs.folds.tolist() == [0, 0, 1, 1]
        assert reader.identities == ["ann", "bob"]
        names = reader.pairs.names
        assert [(names[a], names[b]) for a, b in zip(reader.pairs.a, reader.pairs.b, strict=True)] == [
            ("ann/ann_0001", "ann/ann_0002"), ("ann/ann_0001", "bob/bob_0001"),
            ("ann/ann_0002", "ann/ann_0003"), ("bob/bob_0001", "ann/ann_0002"),
        ]  # fmt: skip
        assert len(reader) == 4  # cyd's third image is there, but no pair needs it
        people = [reader.identities[i] for i in reader.__getitems__(range(4))["identity"].tolist()]
        assert people == [name.split("/")[0] for name in names]

    def test_nothing_left(self, tree: Path, tmp_path: Path) -> None:
        (tree / "bob" / "bob_0001.jpg").unlink()
        pairs = _written(tmp_path / "list.txt", "ann 1 2\nann 1 bob 1\n")
        with pytest.raises(FileNotFoundError, match="too few pairs are left"):
            PairFaces(tree, pairs, missing="skip")

    def test_no_root(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"root=.*none: no such folder"):
            PairFaces(tmp_path / "none", _written(tmp_path / "list.txt", LFW))

    def test_bad_image_is_an_error(self, tree: Path, tmp_path: Path) -> None:
        (tree / "ann" / "ann_0002.jpg").write_bytes(encoded(picture(0))[:300])
        reader = PairFaces(tree, _written(tmp_path / "list.txt", LFW), size=20)
        with pytest.raises(ValueError, match=r"ann_0002\.jpg: cannot be decoded"):
            reader.__getitems__(range(8))
