from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datamodules import ClassFolders, DrawnFaces, FaceDataModule
from lightning_app.desensitize import Desensitizer, MaskOut
from lightning_app.studies.faces import drawn_numbers, load_faces, mates_of, refuse_released
from tests.datamodules.face_files import make_tree


def test_numbers_are_drawn_once_each_and_by_the_seed() -> None:
    first, again, other = (drawn_numbers(50, 20, 7, seed, "images") for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first.unique()) == 20
    assert set(drawn_numbers(50, 50, 7, 0, "images").tolist()) == set(range(50))
    with pytest.raises(ValueError, match="images=51: the set has 50 images; give a number from 1 to 50"):
        drawn_numbers(50, 51, 7, 0, "images")


def test_a_mate_is_another_image_of_the_same_identity() -> None:
    labels = torch.tensor([0, 2, 1, 0, 2, 2, 1, 0, 2])
    numbers = torch.arange(9).flip(0)
    mates = mates_of(labels, numbers, 3, 0)
    assert torch.equal(labels[mates], labels[numbers])
    assert (mates != numbers).all()
    assert len({tuple(mates_of(labels, numbers, 3, seed).tolist()) for seed in range(8)}) > 1
    with pytest.raises(ValueError, match="target=mate: some identities have a single image"):
        mates_of(torch.tensor([0, 0, 1]), torch.tensor([0, 2]), 3, 0)


def test_faces_come_in_the_order_asked() -> None:
    faces = DrawnFaces(identities=3, images_per_identity=2, size=16)
    pixels, labels = load_faces(faces, torch.tensor([5, 0]))
    assert labels.tolist() == [2, 0]
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels[1], torch.from_numpy(faces.read(0)).expand(3, -1, -1))


def test_of_a_task_its_classes_come(tmp_path: Path) -> None:
    make_tree(tmp_path / "train", {"glad": 2, "sad": 1})
    _, classes = load_faces(ClassFolders(tmp_path, size=16, cache_index=False), torch.tensor([2, 0]))
    assert classes.tolist() == [1, 0]


class _Released(DrawnFaces):
    """Faces that come hidden, as a release does."""

    def desensitizer(self) -> Desensitizer | None:
        return MaskOut(freeform=(0.7, 0.8), count=1, size=self.size)


def test_a_release_is_refused_where_clean_faces_are_needed() -> None:
    refuse_released(FaceDataModule(DrawnFaces(size=32)), "search-mask")
    with pytest.raises(
        ValueError, match=r"data\.reader: search-mask lays masks on clean faces, and this set is a"
    ):
        refuse_released(FaceDataModule(_Released(size=32)), "search-mask")
