import numpy as np
import pytest
import torch

from lightning_app.core.draws import hashed, integers, seed_from, seed_global_draws, uniform

MASK = (1 << 64) - 1


def reference(counter: int, *keys: int) -> int:
    """splitmix64's finaliser in Python's unbounded integers."""

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        return x ^ (x >> 31)

    state = 0
    for key in (*keys, counter):
        state = mix(((state ^ (key & MASK)) + 0x9E3779B97F4A7C15) & MASK)
    return state - (1 << 64) if state >> 63 else state


def test_hash_equals_a_python_reference_bit_for_bit() -> None:
    counters = torch.tensor([0, 1, 2, 12345678901234, -5, 2**63 - 1])
    for keys in [(), (0,), (1, 2), (2**62, 7, 2**64 - 1), (-3,)]:
        assert hashed(counters, *keys).tolist() == [reference(c, *keys) for c in counters.tolist()]


def test_uniforms_are_uniform_and_independent_of_the_batch() -> None:
    draws = uniform(torch.arange(100_000), 1, 2)
    assert 0 <= float(draws.min()) < float(draws.max()) < 1
    counts = np.histogram(draws.numpy(), 20, (0, 1))[0]
    chi2 = ((counts - 5000) ** 2 / 5000).sum()
    assert chi2 < 43.8  # 99.9 % quantile at 19 degrees of freedom
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.015
    assert torch.equal(uniform(torch.tensor([77, 5]), 1, 2), draws[[77, 5]])


def test_keys_and_their_order_matter() -> None:
    counter = torch.arange(1000)
    sets = [uniform(counter, *keys) for keys in ((1, 2), (2, 1), (1,), (1, 2, 0), (1, 3))]
    for i, a in enumerate(sets):
        for b in sets[:i]:
            assert abs(np.corrcoef(a, b)[0, 1]) < 0.12


def test_integers_cover_their_range() -> None:
    draws = integers(torch.arange(10_000), 7, 3)
    assert sorted(set(draws.tolist())) == list(range(7))
    assert draws.bincount().min() > 1250


def test_seeds_fit_a_generator() -> None:
    seeds = {seed_from(1, seed, step) for seed in range(10) for step in range(10)}
    assert len(seeds) == 100
    for seed in seeds:
        torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", [0, 7, -3, 2**63 - 1])
def test_global_draws_are_those_of_torchs_own_seed(seed: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected = torch.rand(8)
        seed_global_draws(seed)
        assert torch.equal(torch.rand(8), expected)
