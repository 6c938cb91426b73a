"""How a set lies with its owners."""

from __future__ import annotations

import pytest
import torch

from datamodules import DrawnFaces
from lightning_app.federated.protocol.partition import Partition, deal, partition_table
from lightning_app.federated.protocol.people import OwnPeople, part_of

LABELS = torch.arange(20).repeat_interleave(torch.arange(3, 23))  # person p has p + 3 images


@pytest.mark.parametrize("how", ["images", "identities", "dirichlet"])
@pytest.mark.parametrize("owners", [1, 3])
def test_parts_are_disjoint_cover_all_and_follow_the_seed(how: Partition, owners: int) -> None:
    parts = deal(LABELS, owners, how, seed=4)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(LABELS)))
    again = deal(LABELS, owners, how, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))
    other = deal(LABELS, owners, how, seed=5)
    assert owners == 1 or not all(torch.equal(a, b) for a, b in zip(parts, other, strict=True))


def test_images_are_dealt_equally_and_people_stay_whole() -> None:
    sizes = [len(part) for part in deal(LABELS, 3, "images")]
    assert max(sizes) - min(sizes) <= 1
    people = [set(LABELS[part].tolist()) for part in deal(LABELS, 3, "identities")]
    assert len(set.union(*people)) == sum(len(own) for own in people) == 20
    assert sorted(len(own) for own in people) == [6, 7, 7]


def test_a_smaller_alpha_is_more_unequal() -> None:
    def distance(alpha: float) -> float:
        rows = partition_table(LABELS, deal(LABELS, 3, "dirichlet", alpha=alpha))[1]
        return sum(float(str(row[-1])) for row in rows) / 3

    assert distance(0.1) > 0.4 > 0.2 > distance(100.0)


def test_the_table_by_hand() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    heads, rows = partition_table(labels, [torch.tensor([0, 1, 2]), torch.tensor([3])])
    assert heads == ["owner", "images", "people", "nobody else's", "distance"]
    # shares of the whole 1/2, 1/2; of owner 0 2/3, 1/3; of owner 1 0, 1
    assert rows == [["0", 3, 2, 1, "0.167"], ["1", 1, 1, 0, "0.500"]]


def test_what_cannot_be_dealt() -> None:
    with pytest.raises(ValueError, match=r"owner 1 of 3 would have no image"):
        deal(torch.tensor([0]), 3, "images")
    with pytest.raises(ValueError, match=r"alpha=0: give a positive number"):
        deal(LABELS, 3, "dirichlet", alpha=0)
    with pytest.raises(ValueError, match=r"clients=0"):
        deal(LABELS, 0, "images")
    with pytest.raises(ValueError, match=r"'own'; choose images"):
        deal(LABELS, 3, "own")


def test_own_people_are_numbered_from_0_and_keep_pixels_and_names() -> None:
    whole = DrawnFaces(identities=6, images_per_identity=4, size=32)
    positions = deal(whole.labels, 2, "identities", seed=1)[1]
    part = part_of(whole, positions, private_heads=True)
    assert isinstance(part, OwnPeople)
    assert len(part) == 12
    assert sorted(set(part.labels.tolist())) == [0, 1, 2]
    asked = [0, 5, 11]
    batch, before = part.__getitems__(asked), whole.__getitems__(positions[asked].tolist())
    assert torch.equal(batch["image"], before["image"])
    assert torch.equal(batch["index"], before["index"])
    assert [part.identities[i] for i in batch["identity"]] == [
        whole.identities[i] for i in before["identity"]
    ]
    assert part.name(5) == whole.name(int(positions[5]))
    shared = part_of(whole, positions, private_heads=False)
    assert shared.identities == whole.identities
