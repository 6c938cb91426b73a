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


@pytest.mark.parametrize(("growth", "most"), [(Growth(0), 4), (Growth(4, 0.25), 1)])
def test_a_few_near_ties_may_fall_otherwise_and_no_more_in_all_rounds_together(
    growth: Growth, most: int
) -> None:
    """Of many near ties a planted masker could let any mask be made. A pixel passed over counts in every round."""
    scores = torch.linspace(0, 1e-6, SIZE * SIZE)
    scores[:20] = torch.linspace(-1, -0.5, 20)  # they lie apart: rounding is a share of that
    scores[-20:] = torch.linspace(-1, -0.5, 20)

    def network(seen: Tensor) -> Tensor:
        return scores.view(1, 1, SIZE, SIZE)

    own, rounds = grown(network, IMAGE, 10, growth)
    shown = torch.cat([added.flatten().nonzero().flatten() for _, added in rounds])
    hidden = [at for at in range(20, SIZE * SIZE - 20) if own.flatten()[at] == 0]
    for swapped, fits in ((0, True), (1, True), (most, True), (5, False)):
        other = own.flatten().clone()
        other[shown[:swapped]] = 0
        other[hidden[:swapped]] = 1
        made = list(runs(network, IMAGE, 10, growth, other.view(1, 1, SIZE, SIZE)))
        assert bool(made) is fits, swapped
        assert all(torch.equal(mask.flatten(), other) for mask, _ in made)
