"""Readers of tasks other than identity: class folders, CelebA, FER; target and identity apart."""

from __future__ import annotations

import doctest
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datamodules import CelebAFaces, ClassFolders, FERFaces
from datamodules.readers import votes
from datamodules.readers.bad_images import BadImage
from datamodules.readers.base import whole
from datamodules.readers.cached import CachedReader
from datamodules.readers.class_folders import SplitName
from datamodules.readers.subset import Subset
from datamodules.readers.votes import EMOTIONS, majority
from lightning_app.core.batch import Batch, learnt
from tests.datamodules.face_files import encoded, make_tree, picture
from tests.datamodules.task_files import FERRow, fer_pixels, hair, write_celeba, write_fer, write_fer_folders
from tests.datamodules.test_reader_contract import SIZE, OnDisk

FER3 = Path("data/fer3")
CELEBA = [
    ("000001.jpg", hair(Black_Hair=1, Smiling=1), 0, 7),
    ("000002.jpg", hair(Blond_Hair=1), 0, 9),
    ("000003.jpg", hair(Black_Hair=1), 0, None),  # nobody says who it is
    ("000004.jpg", hair(Black_Hair=1, Brown_Hair=1), 0, 7),  # two colours
    ("000005.jpg", hair(), 0, 7),  # none
    ("000006.jpg", hair(Gray_Hair=1), 1, 9),
    ("000007.jpg", hair(Brown_Hair=1), 2, 9),
    ("000008.jpg", hair(Brown_Hair=1), None, 9),  # in no partition
    ("000009.jpg", hair(Brown_Hair=1), 0, 12),
]
FER: list[FERRow] = [
    ("Training", 3, (0, 8, 0, 0, 0, 0, 0, 0, 1, 1)),  # happiness
    ("Training", 0, (5, 5, 0, 0, 0, 0, 0, 0, 0, 0)),  # half is not more than half
    ("Training", 5, (0, 0, 4, 1, 1, 1, 1, 1, 0, 1)),  # surprise: single votes are dropped
    ("Training", 4, (0, 0, 0, 0, 0, 0, 0, 0, 0, 10)),  # no face, without a name
    ("Training", 6, (2, 0, 0, 0, 0, 0, 0, 0, 6, 2)),  # unknown
    ("Training", 2, (0, 0, 0, 0, 0, 0, 6, 0, 4, 0)),  # fear
    ("PublicTest", 6, (10, 0, 0, 0, 0, 0, 0, 0, 0, 0)),
    ("PublicTest", 3, (0, 9, 0, 0, 0, 0, 0, 0, 1, 0)),
    ("PrivateTest", 5, (0, 0, 10, 0, 0, 0, 0, 0, 0, 0)),
    ("PrivateTest", 1, (0, 0, 0, 0, 1, 7, 2, 0, 0, 0)),
]


class TestClassFolders(OnDisk):
    def write(self) -> None:
        make_tree(self.folder / "set" / "train", {"glad": 3, "sad": 2})

    def make(self) -> ClassFolders:
        return ClassFolders(self.folder / "set", size=SIZE, cache_index=False)


class TestCelebAFaces(OnDisk):
    def write(self) -> None:
        write_celeba(self.folder / "set", CELEBA)

    def make(self) -> CelebAFaces:
        return CelebAFaces(self.folder / "set", size=SIZE)


class TestFERFaces(OnDisk):
    def write(self) -> None:
        write_fer(self.folder / "set", FER)

    def make(self) -> FERFaces:
        return FERFaces(self.folder / "set", size=SIZE)


class TestFERFolders(TestFERFaces):
    def write(self) -> None:
        write_fer_folders(self.folder / "set", FER)


@pytest.mark.parametrize("whole_folder", [False, True])
@pytest.mark.parametrize("case", [TestClassFolders, TestCelebAFaces, TestFERFolders])
def test_a_release_follows_no_link_out_of_the_set(
    case: type[OnDisk], whole_folder: bool, tmp_path: Path
) -> None:
    """A reader that is strict is one that `desensitize` reads by; `fit` follows links, people keep their sets so."""
    cased = case()
    cased.folder = tmp_path
    cased.write()
    reader = cased.make().open()
    before = reader.read(0)
    image = Path(reader.name(0))
    folder = tmp_path / "set" / image.relative_to(tmp_path / "set").parts[0]
    moved = folder if whole_folder else image
    elsewhere = moved.rename(tmp_path / f"secret{moved.suffix}")
    moved.symlink_to(elsewhere)
    reader = cased.make()
    assert (reader.read(0) == before).all()
    assert reader.encoded(0) == image.read_bytes()
    reader.strict = True
    for read in (reader.read, reader.encoded):
        with pytest.raises(BadImage, match=r"lies outside the tree, in .*secret"):
            read(0)
    moved.unlink()
    moved.symlink_to(elsewhere.rename(tmp_path / "set" / elsewhere.name))
    assert (reader.read(0) == before).all(), "a link within the set is followed"


@pytest.mark.parametrize("name", ["validation", "valid", "val"])
def test_a_split_has_one_of_its_names(tmp_path: Path, name: str) -> None:
    make_tree(tmp_path / name, {"sad": 2, "glad": 1})
    reader = ClassFolders(tmp_path, "validation", size=SIZE, cache_index=False)
    assert reader.stable_name(0) == "validation/glad/glad_0001.jpg"
    assert reader.name(0) == str(tmp_path / name / "glad" / "glad_0001.jpg")
    assert reader.identities == ["glad", "sad"]
    assert reader[2]["target"].tolist() == [1]
    assert reader[2]["identity"].tolist() == [-1]


def test_classes_may_be_chosen(tmp_path: Path) -> None:
    make_tree(tmp_path / "test", {"sad": 2, "glad": 1, "calm": 3})
    assert ClassFolders(tmp_path, "test", ["sad", "calm"], cache_index=False).identities == ["calm", "sad"]
    assert not [*ClassFolders(tmp_path, "test", ["sad", "calm"], cache_index=False).open().passed_over()]
    with pytest.raises(ValueError, match=r"classes: no images of angry in .*test, which has calm, glad, sad"):
        ClassFolders(tmp_path, "test", ["sad", "angry"], cache_index=False).open()
    with pytest.raises(ValueError, match=r"classes=\['sad'\]: give two or more"):
        ClassFolders(tmp_path, "test", ["sad"])


def test_splits_that_are_not_there_are_told(tmp_path: Path) -> None:
    make_tree(tmp_path / "train", {"sad": 1, "glad": 1})
    with pytest.raises(FileNotFoundError, match=r"no folder validation or valid or val in it.*it has train"):
        ClassFolders(tmp_path, "validation").open()
    (tmp_path / "val").mkdir()
    (tmp_path / "valid").mkdir()
    with pytest.raises(ValueError, match="has valid and val for split=validation"):
        ClassFolders(tmp_path, "validation").open()
    with pytest.raises(FileNotFoundError, match="no such folder"):
        ClassFolders(tmp_path / "nothing").open()
    with pytest.raises(ValueError, match="split='dev': give one of train, validation, test"):
        ClassFolders(tmp_path, "dev")  # type: ignore[arg-type]


@pytest.mark.parametrize("kaggle", [False, True])
def test_celeba_is_joined_by_name(tmp_path: Path, kaggle: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    reader = CelebAFaces(write_celeba(tmp_path, CELEBA, kaggle), size=SIZE)
    assert reader.identities == ["Black_Hair", "Blond_Hair", "Brown_Hair"]
    names = [reader.stable_name(index) for index in range(len(reader))]
    assert names == ["000001", "000002", "000003", "000009"]
    batch = reader.__getitems__(range(4))
    assert batch["target"].tolist() == [0, 1, 0, 2]
    assert batch["identity"].tolist() == [7, 9, -1, 12]
    assert "2 images left out that have none of the attributes, or several" in caplog.text
    assert "in no partition, and left out: 1 image." in caplog.text
    assert CelebAFaces(tmp_path, split="validation").open().identities == ["Gray_Hair"]
    assert CelebAFaces(tmp_path, split="test").open().identities == ["Brown_Hair"]


def test_celeba_with_two_images_of_one_name_is_refused(tmp_path: Path) -> None:
    """Which of them was meant, no list says: lists of JPEGs name the PNGs of the other archive too."""
    folder = write_celeba(tmp_path, CELEBA) / "img_align_celeba"
    (folder / "000001.png").write_bytes((folder / "000001.jpg").read_bytes())
    with pytest.raises(
        ValueError, match=r"img_align_celeba: 000001\.jpg and 000001\.png have one name; keep one"
    ):
        CelebAFaces(tmp_path).open()


def test_the_order_of_rows_and_attributes_says_nothing(tmp_path: Path) -> None:
    one = CelebAFaces(write_celeba(tmp_path / "a", CELEBA), size=SIZE).open()
    order = ["Gray_Hair", "Brown_Hair", "Blond_Hair", "Black_Hair"]
    other = CelebAFaces(write_celeba(tmp_path / "b", CELEBA[::-1]), order)
    (tmp_path / "b" / "identity_CelebA.txt").write_text("000009.jpg 12\n000001.jpg 7\n000002.jpg 9\n")
    assert one.identities == other.identities
    assert torch.equal(one.labels, other.labels)
    assert one.person is not None
    assert other.person is not None
    assert torch.equal(one.person, other.person)


def test_one_attribute_makes_two_classes(tmp_path: Path) -> None:
    reader = CelebAFaces(write_celeba(tmp_path, CELEBA), ["Smiling"])
    assert reader.identities == ["Smiling", "not_Smiling"]
    assert reader.labels.tolist() == [0, 1, 1, 1, 1, 1]


def test_celeba_without_identities_or_images_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rows = [(image, attributes, part, None) for image, attributes, part, _ in CELEBA]
    reader = CelebAFaces(write_celeba(tmp_path, rows))
    assert reader[0]["identity"].tolist() == [-1]
    (tmp_path / "img_align_celeba" / "000001.jpg").unlink()
    assert len(CelebAFaces(tmp_path).open()) == 3
    assert "1 images left out that are not in the folder" in caplog.text
    for file in (tmp_path / "img_align_celeba").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match="no folder img_align_celeba with images"):
        CelebAFaces(tmp_path).open()


@pytest.mark.parametrize(
    ("line", "wrong", "said"),
    [
        (2, "000001.jpg 1 -1 0 -1 -1", "line 3: '0'; an attribute is 1 or -1"),
        (3, "000002.jpg 1 -1 -1", "line 4: 3 values, 5 attributes"),
        (3, "000001.jpg 1 -1 -1 -1 -1", "line 4: '000001.jpg' stands in the list twice"),
    ],
)
def test_a_damaged_list_names_its_line(tmp_path: Path, line: int, wrong: str, said: str) -> None:
    path = write_celeba(tmp_path, CELEBA) / "list_attr_celeba.txt"
    lines = path.read_text().splitlines()
    lines[line] = wrong
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=said):
        CelebAFaces(tmp_path).open()


def test_celeba_says_what_is_missing(tmp_path: Path) -> None:
    write_celeba(tmp_path, CELEBA)
    with pytest.raises(ValueError, match=r"attributes: Red_Hair not in .*which has Black_Hair, Blond_Hair"):
        CelebAFaces(tmp_path, ["Red_Hair", "Black_Hair"]).open()
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg zero\n")
    with pytest.raises(ValueError, match=r"partition.txt, line 2: 'zero' is no whole number"):
        CelebAFaces(tmp_path).open()
    for wrong in ("9223372036854775808", "1_0", "²", "٣"):
        (tmp_path / "list_eval_partition.txt").write_text(f"000001.jpg 0\n000002.jpg {wrong}\n")
        with pytest.raises(ValueError, match=rf"partition.txt, line 2: '{wrong}' is no whole number"):
            CelebAFaces(tmp_path).open()
    attributes = tmp_path / "list_attr_celeba.txt"
    lines = attributes.read_text().splitlines()
    attributes.write_text("\n".join(["²", *lines[1:]]))
    with pytest.raises(ValueError, match=r"attr_celeba.txt, line 1: '²' is no whole number"):
        CelebAFaces(tmp_path).open()
    attributes.write_text("\n".join(lines))
    (tmp_path / "list_eval_partition.txt").unlink()
    with pytest.raises(FileNotFoundError, match="no list of partitions"):
        CelebAFaces(tmp_path).open()


def test_the_majority_rule_on_rows_made_by_hand() -> None:
    found = [majority(ten) for _, _, ten in FER]
    assert found[:6] == ["happiness", None, "surprise", None, None, "fear"]
    assert majority((0, 0, 0, 0, 3, 2, 1, 0, 0, 0)) == "anger"  # 3 of 5
    assert majority((0, 0, 0, 0, 3, 2, 2, 0, 0, 0)) is None  # 3 of 7
    assert majority((3, 0, 0, 0, 0, 0, 0, 0, 2, 2)) is None  # unknown and no face count among all
    assert majority((1,) * 10) is None
    assert doctest.testmod(votes).failed == 0
    with pytest.raises(ValueError, match="give ten numbers"):
        majority((1, 2))


@pytest.mark.parametrize("layout", ["fer2013", "icml", "folders", "kaggle folder"])
def test_all_layouts_of_fer_plus_are_one_set(tmp_path: Path, layout: str) -> None:
    if layout == "folders":
        write_fer_folders(tmp_path, FER)
    else:
        write_fer(tmp_path / ("fer2013" if layout == "kaggle folder" else ""), FER, icml=layout == "icml")
    reader = FERFaces(tmp_path).open()
    assert reader.identities == ["fear", "happiness", "surprise"]  # sorted, not in the order of the columns
    assert reader.labels.tolist() == [1, 2, 0]
    assert list(reader.stable_names()) == ["fer0000000", "fer0000002", "fer0000005"]
    assert torch.equal(reader[1]["image"][0, 0], torch.from_numpy(fer_pixels(2).copy()))
    assert FERFaces(tmp_path, split="validation").open().identities == ["happiness", "neutral"]
    three = FERFaces(tmp_path, classes="three", split="test").open()
    assert three.identities == ["surprise"]
    assert FERFaces(tmp_path, split="test").open().identities == ["disgust", "surprise"]
    assert set(reader.identities) <= set(EMOTIONS)


def test_fer2013s_own_labels_are_others(tmp_path: Path) -> None:
    write_fer(tmp_path, FER, votes=False)
    reader = FERFaces(tmp_path, labels="fer2013").open()
    assert [reader.identities[label] for label in reader.labels] == [
        "happy", "angry", "surprise", "sad", "neutral", "fear",
    ]  # fmt: skip
    assert FERFaces(tmp_path, "fer2013", "three").open().identities == ["happy", "neutral", "surprise"]
    with pytest.raises(FileNotFoundError, match=r"labels=fer\+ needs .*with fer2013new.csv beside it"):
        FERFaces(tmp_path).open()
    with pytest.raises(ValueError, match=r"give all, three, or two or more of angry.*labels=fer2013"):
        FERFaces(tmp_path, "fer2013", ["happiness", "sad"])


def test_csvs_of_two_sets_are_refused(tmp_path: Path) -> None:
    write_fer(tmp_path, FER)
    path = tmp_path / "fer2013new.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"fer2013.csv has more rows than .*fer2013new.csv, 9"):
        FERFaces(tmp_path).open()
    path.write_text("\n".join([*lines[:6], lines[7], lines[6], *lines[8:]]))
    with pytest.raises(
        ValueError, match=r"fer2013new.csv, line 7: usage 'PublicTest', and 'Training' in .*line 7"
    ):
        FERFaces(tmp_path).open()
    path.write_text("\n".join([lines[0].replace("anger", "rage"), *lines[1:]]))
    with pytest.raises(ValueError, match="line 1: no column anger"):
        FERFaces(tmp_path).open()


def test_damaged_pixels_name_their_line(tmp_path: Path) -> None:
    path = write_fer(tmp_path, FER) / "fer2013.csv"
    lines = path.read_text().splitlines()
    for wrong, said in (
        ("300 1", "line 2: pixels that are no whole numbers"),
        ("3 1", "line 2: 2 pixels; 48×48"),
    ):
        path.write_text("\n".join([lines[0], f"3,{wrong},Training", *lines[2:]]))
        with pytest.raises(ValueError, match=said):
            FERFaces(tmp_path).open()


def test_a_file_name_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    path = write_fer_folders(tmp_path, FER) / "FER2013Train" / "label.csv"
    path.write_text(path.read_text().replace("fer0000000.png", "../../secret.png"))
    with pytest.raises(ValueError, match="is no plain file name"):
        FERFaces(tmp_path).open()


def test_target_and_identity_keep_together(tmp_path: Path) -> None:
    """Through a worker's message, a part, a cache, and a bad image that another of its class replaces."""
    root = write_celeba(tmp_path, CELEBA)
    (root / "img_align_celeba" / "000001.jpg").write_bytes(b"broken")
    reader = CelebAFaces(root, size=SIZE).open()
    batch = reader.__getitems__(range(4))
    assert batch["bad"].tolist() == [0]
    assert batch["target"].tolist() == [0, 1, 0, 2]
    assert batch["identity"].tolist() == [-1, 9, -1, 12]  # of the image that was taken
    part = Subset(reader, torch.tensor([3, 0]))
    for other, order in ((CachedReader(reader, 1), [0, 1, 2, 3]), (part, [0]), (CachedReader(part, 1), [0])):
        found = other.__getitems__(range(len(order)))
        at = order if other is not part and len(order) > 1 else [3]
        assert torch.equal(learnt(found)[0], batch["target"][at])
        assert torch.equal(found["identity"], batch["identity"][at])
    loader: DataLoader[Batch] = DataLoader(reader, batch_size=4, collate_fn=whole, num_workers=1)
    sent = next(iter(loader))
    assert sent["target"].tolist() == batch["target"].tolist()
    assert sent["identity"].tolist() == batch["identity"].tolist()


@pytest.mark.skipif(not FER3.is_dir(), reason="data/fer3 is absent")
def test_fer3_is_read() -> None:
    splits: tuple[SplitName, ...] = ("train", "validation", "test")
    counts = {split: len(ClassFolders(FER3, split, size=48, cache_index=False).open()) for split in splits}
    assert counts == {"train": 15351, "validation": 1917, "test": 1921}


def test_a_picture_of_another_size_has_its_box(tmp_path: Path) -> None:
    """label.csv's box is what of the file is the face; a crop of one's own comes first."""
    folder = write_fer_folders(tmp_path, FER) / "FER2013Train"
    (folder / "fer0000000.png").write_bytes(encoded(picture(1, "L", 60, 50), "PNG"))
    path = folder / "label.csv"
    path.write_text(path.read_text().replace('"(0, 0, 48, 48)"', '"(6, 1, 54, 49)"', 1))
    face = np.asarray(picture(1, "L", 60, 50).crop((6, 1, 54, 49)))
    assert torch.equal(FERFaces(tmp_path)[0]["image"][0, 0], torch.from_numpy(face.copy()))
    listed = path.read_text()
    for wrong in ("6 to 54", "(0, 0, 1e999, 9)", "(-3, 0, 9, 9)", "(9, 0, 3, 9)", "(0, 0, 9)", "((((("):
        path.write_text(listed.replace("(6, 1, 54, 49)", wrong))
        with pytest.raises(ValueError, match=rf"label.csv, line 1: box '{re.escape(wrong)}'; four numbers"):
            FERFaces(tmp_path).open()
