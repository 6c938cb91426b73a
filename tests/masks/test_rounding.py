"""Masks that rounding may make: the same masker on another machine, where a near tie falls the other way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_app.masks.learned import Growth, Network, grown
from lightning_app.masks.rounding import runs

SIZE, SHOWN, GROWTH = 8, 24, Growth(3, 0.25)
IMAGE = torch.ones(1, 3, SIZE, SIZE)


def machine(first: int, by: float) -> Network:
    """A network of fixed scores, two of them equal at the first threshold but for rounding; what is chosen then turns
    the order of all others round.
    """
    order = torch.arange(SIZE * SIZE, dtype=torch.float32)
    order[0], order[1] = 100.0, 100.0
    order[2:7] = torch.arange(200.0, 205.0)

    def network(seen: Tensor) -> Tensor:
        scores = order.clone()
        scores[first] += by
        shown = seen[0, 0].flatten()
        if shown[2] != 0 and shown[0] == 0:
            scores = torch.where(scores < 100, 99 - scores, scores)
        return scores.view(1, 1, SIZE, SIZE)

    return network


def test_a_near_tie_in_an_early_round_changes_all_that_follow_and_is_followed() -> None:
    here, there = (grown(machine(first, 1e-4), IMAGE, SHOWN, GROWTH)[0] for first in (0, 1))
    assert int((here != there).sum()) == 10
    found = list(runs(machine(1, 1e-4), IMAGE, SHOWN, GROWTH, here))
    assert len(found) == 1
    assert torch.equal(found[0][0], here)
    every = [mask for mask, _ in runs(machine(1, 1e-4), IMAGE, SHOWN, GROWTH)]
    assert torch.equal(every[0], there), "the likeliest first"
    assert any(torch.equal(mask, here) for mask in every)


def test_what_is_no_tie_is_not_followed() -> None:
    here = grown(machine(0, 1.0), IMAGE, SHOWN, GROWTH)[0]
    assert not list(runs(machine(1, 1.0), IMAGE, SHOWN, GROWTH, here))
    drawn = torch.zeros(SIZE * SIZE)
    drawn[torch.randperm(SIZE * SIZE, generator=torch.Generator().manual_seed(1))[:SHOWN]] = 1
    for growth in (GROWTH, Growth(0)):
        assert not list(runs(machine(0, 1.0), IMAGE, SHOWN, growth, drawn.view(1, 1, SIZE, SIZE)))
        own, _ = grown(machine(0, 1.0), IMAGE, SHOWN, growth)
        assert torch.equal(next(runs(machine(0, 1.0), IMAGE, SHOWN, growth, own))[0], own)


def test_constant_scores_take_no_longer_than_a_few_passes() -> None:
    passes = []

    def network(seen: Tensor) -> Tensor:
        passes.append(1)
        return torch.ones(1, 1, SIZE, SIZE)

    plain = grown(network, IMAGE, SHOWN, GROWTH)[0]
    passes.clear()
    assert torch.equal(next(runs(network, IMAGE, SHOWN, GROWTH))[0], plain)
    assert len(list(runs(network, IMAGE, SHOWN, GROWTH))) <= 512
    assert len(passes) <= 3 + 64


def drawn_mask() -> Tensor:
    drawn = torch.zeros(SIZE * SIZE)
    drawn[torch.randperm(SIZE * SIZE, generator=torch.Generator().manual_seed(1))[:SHOWN]] = 1
    return drawn.view(1, 1, SIZE, SIZE)


@pytest.mark.parametrize("growth", [GROWTH, Growth(0)])
def test_an_offset_of_all_scores_makes_no_ties(growth: Growth) -> None:
    """A planted masker could add it: ranks stay as they are, and a slack that grew with it would let any mask pass."""
    honest = machine(0, 1.0)

    def network(seen: Tensor) -> Tensor:
        return honest(seen) + 1e5

    assert not list(runs(network, IMAGE, SHOWN, growth, drawn_mask()))
    own, _ = grown(network, IMAGE, SHOWN, growth)
    assert torch.equal(next(runs(network, IMAGE, SHOWN, growth, own))[0], own)


def test_scores_that_are_nearly_all_one_make_one_mask() -> None:
    """Of so many near ties any mask could be made, and none would be found."""
    scores = torch.zeros(SIZE * SIZE)
    scores[::2] = torch.linspace(-1, 1, SIZE * SIZE // 2)
    scores[1::2] = torch.linspace(0, 1e-6, SIZE * SIZE // 2)

    def network(seen: Tensor) -> Tensor:
        return scores.view(1, 1, SIZE, SIZE)

    own, _ = grown(network, IMAGE, SHOWN, Growth(0))
    assert [mask.tolist() for mask, _ in runs(network, IMAGE, SHOWN, Growth(0))] == [own.tolist()]
    near = own.flatten().clone()
    hidden = next(at for at in range(1, SIZE * SIZE, 2) if near[at] == 0)
    shown = next(at for at in range(SIZE * SIZE - 1, 0, -2) if near[at] == 1)
    near[hidden], near[shown] = 1, 0
    assert not list(runs(network, IMAGE, SHOWN, Growth(0), near.view(1, 1, SIZE, SIZE)))
