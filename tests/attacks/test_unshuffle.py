"""Channels shuffled per image by the owner's key are put back without it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from datamodules import DrawnFaces
from lightning_app.attacks import Attack, Unshuffle
from lightning_app.attacks.base import faces_of
from lightning_app.attacks.unshuffle import assigned, channel_statistics
from lightning_app.core.batch import Batch
from lightning_app.desensitize import BlockDCT, FrequencyMask, Mosaic
from lightning_app.metrics import psnr
from tests.attacks.contract import AttackContract

SIZE = 32


def others() -> DrawnFaces:
    return DrawnFaces(identities=60, images_per_identity=1, size=SIZE, first_identity=900)


def attacked() -> Batch:
    faces = DrawnFaces(identities=6, images_per_identity=1, size=SIZE)
    return {"image": faces.__getitems__(range(6))["image"].float() / 255, "index": torch.arange(6)}


def test_a_known_permutation_is_restored_exactly() -> None:
    """A sliding DCT, every image in an order of its own: all 63 channels of all images come back, bit for bit."""
    reference = BlockDCT(upsample=1, stride=1, normalise=True)
    attack = Unshuffle(reference, others())
    right = reference(attacked())["image"]
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(63, generator=generator) for _ in range(6)])
    shuffled = right.gather(1, orders[:, :, None, None].expand_as(right))
    assert not torch.equal(shuffled, right)
    assert torch.equal(attack.put_back(shuffled), right)


def test_the_owners_key_is_not_needed() -> None:
    method = FrequencyMask(upsample=1, stride=1, permutation="image", mix=False)
    method.prepare((SIZE, SIZE))
    batch = attacked()
    released = method(batch.copy())
    attack = Unshuffle(BlockDCT(upsample=1, stride=1, normalise=True), others())
    clean = batch["image"]
    before = method.pictures(released["image"], (SIZE, SIZE))
    assert psnr(attack.restore(released), clean).mean() > psnr(before, clean).mean() + 1


def test_a_linear_map_is_inverted_by_least_squares() -> None:
    """With the DC and without normalising, what was shuffled comes back as the grey picture itself."""
    reference = BlockDCT(upsample=1, stride=1, dc=True)
    batch = attacked()
    right = reference(batch.copy())["image"]
    shuffled = right[:, torch.randperm(64, generator=torch.Generator().manual_seed(1))]
    restored = Unshuffle(reference, others()).restore({"image": shuffled})
    luma = (batch["image"] * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    assert psnr(restored, luma.expand(-1, 3, -1, -1)).min() > 60


def test_statistics_do_not_move_with_mean_and_scale() -> None:
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = channel_statistics(x)
    assert found.shape == (2, 3, 10)
    torch.testing.assert_close(channel_statistics(x * 7 - 3), found, rtol=1e-3, atol=1e-4)
    flat = channel_statistics(torch.ones(1, 1, 8, 8))
    assert torch.equal(flat, torch.zeros_like(flat))
    one = x[0, 0] - x[0, 0].mean()
    one = one / one.square().mean().sqrt()
    across = (one[:, 1:] * one[:, :-1]).mean()
    diagonal = (one[1:, :-1] * one[:-1, 1:]).mean()
    torch.testing.assert_close(found[0, 0, 0], across)
    torch.testing.assert_close(found[0, 0, 3], diagonal)
    torch.testing.assert_close(found[0, 0, 7], one.pow(4).mean().pow(1 / 4))


def test_assignment_is_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, deviation = torch.randn(4, 3, generator=generator), torch.rand(4, 3, generator=generator) + 0.1
    seen = torch.randn(1, 4, 3, generator=generator)

    def cost(order: tuple[int, ...]) -> float:
        gap = (seen[0, list(order)] - mean) / deviation
        return float((gap.square() / 2).sum())

    from itertools import permutations

    best = min(permutations(range(4)), key=cost)
    assert assigned(seen, mean, deviation)[0].tolist() == list(best)


def test_what_does_not_suit_is_refused() -> None:
    with pytest.raises(ValueError, match="reference: Mosaic gives pictures"):
        Unshuffle(Mosaic(8))
    reference = BlockDCT(upsample=1, stride=1)
    with pytest.raises(ValueError, match="images: 1"):
        Unshuffle(reference, images=1)
    with pytest.raises(ValueError, match="reader: Unshuffle has no faces"):
        Unshuffle(reference).restore({"image": torch.rand(1, 63, 8, 8)})
    with pytest.raises(ValueError, match="has 63 channels, what was released has 5"):
        Unshuffle(reference, others()).restore({"image": torch.rand(1, 5, 25, 25)})
    assert len(faces_of(others(), 2, "Unshuffle")) == 2


class TestUnshuffle(AttackContract):
    def make(self) -> Unshuffle:
        return Unshuffle(BlockDCT(upsample=1, stride=1), others(), images=20)

    def images(self, attack: Attack) -> Tensor:
        seen: Tensor = BlockDCT(upsample=1, stride=1)(attacked())["image"][:4]
        return seen
