"""Measured of a method that mixes: the mixes it trains on, and a recogniser on faces that are not mixed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules import DrawnFaces, DrawnPairs, FaceDataModule
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.draws import hashed
from lightning_app.core.key_file import make_key
from lightning_app.desensitize import Chain, MixUp, Mosaic
from lightning_app.evaluation import Judge, privacy
from lightning_app.evaluation.privacy import Subjects, measure, short_hash
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


def test_judges_see_mixes_and_its_own_recogniser_sees_faces(
    data: FaceDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privacy, "_TOGETHER", 10)
    faces, outside, own = subjects(7), Shown(False), Shown(True)
    part = measure(faces, data, None, [], [outside, own])
    order = torch.argsort(hashed(torch.arange(24), privacy._VISITED))
    raw = faces.raw(torch.arange(24))
    alone = (Mosaic(4).desensitize(raw.float() / 255) * 255).round() / 255
    torch.testing.assert_close(torch.cat(own.seen), alone[order])
    seen = torch.cat(outside.seen)
    assert (seen - alone[order]).abs().mean() > 0.02
    # 10, 10 and 4: each batch is mixed within itself
    for first in (0, 10):
        rows = order[first : first + 10]
        batch = Batch(image=raw[rows].float() / 255, index=rows)
        mixed = (data.desensitizer(batch, DrawKey(mix=True))["image"] * 255).round() / 255
        torch.testing.assert_close(seen[first : first + 10], mixed)
    # what is kept is in the images' order again
    back = torch.argsort(order)
    torch.testing.assert_close(part["dssim"], dssim(raw.float() / 255, seen[back]))
    embedded = F.normalize(seen[back].flatten(1)[:, :16] - 0.5)
    pairs = faces.pairs
    expected = (embedded[pairs.a] * embedded[pairs.b]).sum(1)
    (found,) = (value for key, value in part.items() if key == f"pairs/{short_hash(outside)}")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_mixes_do_not_depend_on_the_batch_size(data: FaceDataModule) -> None:
    """Who is mixed with whom decides every figure; how many images fit into memory must not."""
    parts = [measure(subjects(size), data, None, []) for size in (24, 5)]
    assert parts[0].keys() == parts[1].keys()
    for name, value in parts[0].items():
        torch.testing.assert_close(parts[1][name], value)


def test_a_persons_images_are_not_mixed_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of a pair list they lie beside each other, in a training batch they do not."""
    monkeypatch.setattr(privacy, "_TOGETHER", 8)
    faces = subjects(8)

    def twice(batches: list[torch.Tensor]) -> float:
        labels = [faces.labels[rows] for rows in batches]
        return sum(len(who) - len(who.unique()) for who in labels) / len(faces)

    assert twice(privacy._visits(faces, True)) < twice(privacy._visits(faces, False))
    assert torch.equal(torch.cat(privacy._visits(faces, True)).sort().values, torch.arange(24))


def test_few_that_are_left_over_are_mixed_with_the_first(
    data: FaceDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privacy, "_TOGETHER", 22)
    orders = ((salt, torch.argsort(hashed(torch.arange(24), salt))) for salt in range(1000))
    salt = next(
        salt for salt, order in orders if 0 in order[22:].tolist()
    )  # the first is among those left over
    monkeypatch.setattr(privacy, "_VISITED", salt)
    faces, outside = subjects(22), Shown(False)
    measure(faces, data, None, [], [outside])
    raw = faces.raw(torch.arange(24)).float() / 255
    left = torch.argsort(hashed(torch.arange(24), privacy._VISITED))[22:]
    other = next(row for row in range(24) if row not in left.tolist())
    rows = torch.tensor([*left.tolist(), other])
    mixed = data.desensitizer(Batch(image=raw[rows], index=rows), DrawKey(mix=True))["image"]
    torch.testing.assert_close(torch.cat(outside.seen)[22:], (mixed[:2] * 255).round() / 255)
