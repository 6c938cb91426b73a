"""Validation and test sets of their own: classes by name, images apart, and what does not go together."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules import ClassFolders, DrawnFaces, FaceDataModule, FolderFaces
from datamodules.evaluation_sets import EvaluationSets, check_apart, with_classes
from lightning_app.core.batch import learnt
from lightning_app.desensitize import Identity
from tests.datamodules.face_files import make_tree
from tests.release.released import raw_tree, release

SIZE = 20


def folders(
    root: Path, split: str = "train", people: Sequence[str] = ("glad", "sad"), **more: Any
) -> ClassFolders:
    make_tree(root / split, dict.fromkeys(people, 3))
    return ClassFolders(root, split, size=SIZE, cache_index=False, **more)  # type: ignore[arg-type]


def batches(data: FaceDataModule, test: bool = False) -> list[Any]:
    loader = data.test_dataloader() if test else data.val_dataloader()
    return [data.on_after_batch_transfer(data.on_before_batch_transfer(b, 0), 0) for b in loader]


@pytest.mark.parametrize("cache", [False, True])
def test_classes_are_found_by_name(tmp_path: Path, cache: bool) -> None:
    training = folders(tmp_path, people=("calm", "glad", "sad"))
    data = FaceDataModule(training, validation=_validation(tmp_path), cache=cache)
    data.setup("fit")
    assert data.held_out is not None
    assert len(data.held_out) == 6
    assert len(data.training or ()) == 9
    found = torch.cat([learnt(batch)[0] for batch in batches(data)])
    assert found.tolist() == [0, 0, 0, 2, 2, 2]
    assert torch.cat([batch["identity"] for batch in batches(data)]).unique().tolist() == [-1]
    assert [learnt(b)[0].tolist() for b in batches(data, test=True)] == [found.tolist()], (
        "validation's by default"
    )
    assert data.class_names == ["calm", "glad", "sad"]
    assert data.state_dict()["classes"] == ["calm", "glad", "sad"]


def _validation(root: Path) -> ClassFolders:
    make_tree(root / "val", {"calm": 3, "sad": 3})
    return ClassFolders(root, "validation", size=SIZE, cache_index=False)


def test_people_may_have_a_set_of_their_own(tmp_path: Path) -> None:
    make_tree(tmp_path / "a", {"ann": 2, "bob": 2, "cy": 2})
    make_tree(tmp_path / "b", {"bob": 2, "cy": 1})
    data = FaceDataModule(
        FolderFaces(tmp_path / "a", size=SIZE, cache_index=False),
        validation=FolderFaces(tmp_path / "b", size=SIZE, cache_index=False),
    )
    data.setup("fit")
    (batch,) = batches(data)
    assert batch["identity"].tolist() == [1, 1, 2]
    assert "target" not in batch
    assert "classes" not in data.state_dict()  # they are names of people
    assert data.class_names is None


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    training = folders(tmp_path)
    with pytest.raises(ValueError, match=r"data.validation and data.val_share=0.1: give one of them"):
        FaceDataModule(training, validation=DrawnFaces(3, 2, SIZE), val_share=0.1)
    with pytest.raises(ValueError, match=r"data.test: images of 24 px, the training set's have 20"):
        FaceDataModule(training, test=DrawnFaces(3, 2, 24))
    with pytest.raises(
        ValueError, match=r"data.validation: its classes are people, the training set's are not"
    ):
        FaceDataModule(training, validation=DrawnFaces(3, 2, SIZE))
    with pytest.raises(ValueError, match=r"data.test: its classes are no people"):
        FaceDataModule(DrawnFaces(3, 2, SIZE), test=training)
    data = FaceDataModule(training, validation=ClassFolders(tmp_path, "train", size=SIZE, cache_index=False))
    with pytest.raises(ValueError, match=r"data.validation: 6 of its 6 images are in the training set too"):
        data.setup("fit")
    (tmp_path / "link").symlink_to(tmp_path)
    for path in (os.path.relpath(tmp_path), tmp_path / "link"):
        same = ClassFolders(path, "train", size=SIZE, cache_index=False)
        with pytest.raises(ValueError, match=r"data.test: 6 of its 6 images are in the training set too"):
            check_apart(training, same, "data.test")
    other = FaceDataModule(training, validation=folders(tmp_path, "test", ("glad", "mad")))
    with pytest.raises(
        ValueError, match="1 of its 2 classes are none of the training set's classes, which are glad"
    ):
        other.setup("fit")


class Untold(ClassFolders):
    """A reader that does not say how its images are stored, so that nothing tells a copy."""

    def content(self, index: int) -> bytes:
        return b""


def test_a_copy_of_the_training_set_is_refused(tmp_path: Path) -> None:
    """Of the same names within the set; other images of these names are another set."""
    training = folders(tmp_path / "a")
    shutil.copytree(tmp_path / "a" / "train", tmp_path / "b" / "train")
    copied = ClassFolders(tmp_path / "b", "train", size=SIZE, cache_index=False)
    data = FaceDataModule(training, validation=copied)
    with pytest.raises(
        ValueError, match=r"data.validation: 6 of its 6 images are copies of such as are trained on"
    ):
        data.setup("fit")
    first = tmp_path / "b" / "train"
    for path in sorted(first.rglob("*.*"))[1:]:
        path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(
        ValueError, match=r"data.test: 1 of its 6 images are copies of .* the first of .*glad"
    ):
        check_apart(training, copied, "data.test")
    sorted(first.rglob("*.*"))[0].unlink()
    check_apart(training, ClassFolders(tmp_path / "b", "train", size=SIZE, cache_index=False), "data.test")
    check_apart(
        Untold(tmp_path / "a", "train", size=SIZE), Untold(tmp_path / "b", "train", size=SIZE), "data.test"
    )


def test_a_released_set_measures_released_training_alone(tmp_path: Path) -> None:
    from datamodules import ReleasedFaces

    release(tmp_path, raw_tree(tmp_path / "raw", people=2, each=2))
    released = ReleasedFaces(tmp_path / "out")
    with pytest.raises(ValueError, match=r"data.validation: a released set, and the training set is raw"):
        FaceDataModule(DrawnFaces(3, 2, released.size), validation=released)


def test_the_set_is_copied_and_not_changed(tmp_path: Path) -> None:
    reader = _validation(tmp_path)
    found = with_classes(reader, ["a", "calm", "sad", "z"], "data.test")
    assert found.labels.tolist() == [1, 1, 1, 2, 2, 2]
    assert reader.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [found.name(i) for i in range(6)] == [reader.name(i) for i in range(6)]
    check_apart(folders(tmp_path), found, "data.test")
    assert EvaluationSets(reader, Identity(), {"test": None}).readers == {}


def test_bad_images_of_either_set_are_counted_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    training, validation = folders(tmp_path), _validation_like(tmp_path, 120)
    (tmp_path / "val" / "sad" / "sad_0002.jpg").write_bytes(b"broken")
    data = FaceDataModule(training, validation=validation)
    data.setup("fit")
    trainer = SimpleNamespace(
        training=False, predicting=False, testing=False, world_size=1, global_rank=0, state=SimpleNamespace(fn=None),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        precision_plugin=SimpleNamespace(convert_input=lambda batch: batch),
    )  # fmt: skip
    data.trainer = trainer  # type: ignore[assignment]
    batches(data)
    data._warn_of_bad_images()
    assert "1 of 240 images cannot be decoded and were replaced" in caplog.text
    assert str(tmp_path / "val" / "sad" / "sad_0002.jpg") in caplog.text


def _validation_like(root: Path, each: int) -> ClassFolders:
    make_tree(root / "val", {"glad": each, "sad": each})
    return ClassFolders(root, "validation", size=SIZE, cache_index=False)
