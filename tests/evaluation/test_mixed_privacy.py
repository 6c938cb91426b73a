"""Measured of a method that mixes: the mixes it trains on, and a recogniser on faces that are not mixed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from datamodules import DrawnFaces, DrawnPairs, FaceDataModule
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.key_file import make_key
from lightning_app.desensitize import Chain, MixUp, Mosaic
from lightning_app.evaluation import Judge
from lightning_app.evaluation.privacy import Subjects, measure
from lightning_app.metrics import dssim

SIZE = 32


class Shown(Judge):
    """Keeps what it is shown."""

    def __init__(self, of_released: bool) -> None:
        super().__init__()
        self.of_released, self.seen = of_released, list[Tensor]()

    def embed(self, images: Tensor) -> Tensor:
        self.seen.append(images.clone())
        return images.flatten(1)[:, :16] - 0.5

    def describe(self) -> dict[str, object]:
        return {"judge": "shown", "released": self.of_released}


def subjects(batch_size: int) -> Subjects:
    """24 images of drawn people."""
    return Subjects(DrawnPairs(6, 4, SIZE, first_identity=100, folds=2, pairs_per_fold=4), batch_size)


@pytest.fixture
def data(tmp_path: Path) -> FaceDataModule:
    make_key(tmp_path / "owner.key")
    desensitizer = Chain([Mosaic(4), MixUp(3, key=tmp_path / "owner.key")])
    return FaceDataModule(DrawnFaces(2, 2, SIZE), desensitizer)


def test_judges_see_mixes_and_its_own_recogniser_sees_faces(data: FaceDataModule) -> None:
    faces, outside, own = subjects(10), Shown(False), Shown(True)
    part = measure(faces, data, None, [], [outside, own])
    raw = faces.raw(torch.arange(24))
    alone = (Mosaic(4).desensitize(raw.float() / 255) * 255).round() / 255
    torch.testing.assert_close(torch.cat(own.seen), alone)
    seen = torch.cat(outside.seen)
    assert (seen - alone).abs().mean() > 0.02
    # 10, 10 and 4: each batch is mixed within itself
    for first in (0, 10):
        rows = torch.arange(first, first + 10)
        batch = Batch(image=raw[rows].float() / 255, index=rows)
        mixed = (data.desensitizer(batch, DrawKey(mix=True))["image"] * 255).round() / 255
        torch.testing.assert_close(seen[rows], mixed)
    torch.testing.assert_close(part["dssim"], dssim(raw.float() / 255, seen))


def test_few_that_are_left_over_are_mixed_with_the_first(data: FaceDataModule) -> None:
    faces, outside = subjects(22), Shown(False)
    measure(faces, data, None, [], [outside])
    raw = faces.raw(torch.arange(24)).float() / 255
    rows = torch.tensor([22, 23, 0])
    mixed = data.desensitizer(Batch(image=raw[rows], index=rows), DrawKey(mix=True))["image"]
    torch.testing.assert_close(torch.cat(outside.seen)[22:], (mixed[:2] * 255).round() / 255)
