"""Random draws as a pure function of counters, whole batches at once, the same on every device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX2 = -7723592293110705685  # 0x94D049BB133111EB
_ALL = 2**64 - 1


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # torch's >> on int64 is arithmetic; the mask makes it the logical shift the hash needs
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _splitmix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX1
    x = (x ^ _shift_right(x, 27)) * _MIX2
    return x ^ _shift_right(x, 31)


def _folded(keys: Sequence[int]) -> int:
    """Hash the keys one after the other, 0 … 2⁶⁴−1; in Python, for on a GPU every operation is a kernel launched."""
    state = 0
    for key in keys:
        state = ((state ^ (key & _ALL)) + _GOLDEN) & _ALL
        state = ((state ^ (state >> 30)) * _MIX1) & _ALL
        state = ((state ^ (state >> 27)) * _MIX2) & _ALL
        state ^= state >> 31
    return state


def _signed(bits: int) -> int:
    return ((bits + 2**63) % 2**64) - 2**63  # as int64 has them


def hashed(counter: Tensor, *keys: int) -> Tensor:
    """Hash counters and keys to 64 uniform bits (splitmix64's finaliser, applied once per key).

    Args:
        counter: int64, any shape: what differs within a batch, such as the image's index.
        keys: integers that are the same for the whole batch: a salt naming the draw, seed, epoch, step.

    Returns:
        int64 of the counter's shape.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    return _splitmix((counter ^ _signed(_folded(keys))) + _GOLDEN)


def uniform(counter: Tensor, *keys: int) -> Tensor:
    """Draw float32 uniforms in [0, 1) as a function of (counter, keys) alone.

    Args:
        counter: int64, any shape.
        keys: integers that are the same for the whole batch.

    Returns:
        float32 of the counter's shape, multiples of 2⁻²⁴.
    """
    return as_uniform(hashed(counter, *keys))


def as_uniform(bits: Tensor) -> Tensor:
    """Make float32 uniforms in [0, 1), multiples of 2⁻²⁴, of 64 uniform bits each.

    Args:
        bits: int64, any shape, as `hashed` and `secret` give them.
    """
    return _shift_right(bits, 40).to(torch.float32) * 2.0**-24


def secret(counter: Tensor, keys: Sequence[int]) -> Tensor:
    """Hash counters to 64 bits that only who has the keys can compute: for draws that protect.

    `hashed` can be run backwards: one of its values, known with its counter, gives all others. Here a key is added
    before, between and after three rounds (Even and Mansour's construction, iterated). It is no vetted cipher.

    Args:
        counter: int64, any shape.
        keys: four secret integers in [0, 2⁶³), such as `OwnerKey.integer` draws.

    Returns:
        int64 of the counter's shape; distinct for distinct counters.
    """
    state = counter ^ keys[0]
    shifted = torch.empty_like(state)  # in place: a batch may need millions
    for key in keys[1:]:
        state += _GOLDEN
        for bits, factor in ((30, _MIX1), (27, _MIX2), (31, None)):
            torch.bitwise_right_shift(state, bits, out=shifted)
            state ^= shifted.bitwise_and_((1 << (64 - bits)) - 1)  # as in `_shift_right`
            if factor is not None:
                state *= factor
        state ^= key
    return state


def integers(counter: Tensor, high: int, *keys: int) -> Tensor:
    """Draw int64 in [0, high) as a function of (counter, keys) alone.

    Args:
        counter: int64, any shape.
        high: exclusive upper bound, at least 1 and far below 2⁶³ (the modulo's bias is then nil).
        keys: integers that are the same for the whole batch.

    Returns:
        int64 of the counter's shape.
    """
    return _shift_right(hashed(counter, *keys), 1) % high


def seed_from(*keys: int) -> int:
    """Fold keys into one seed in [0, 2⁶³) for a `torch.Generator`.

    Args:
        keys: integers, for example (salt, seed, step).
    """
    return _folded([*keys, 0]) >> 1


def seed_global_draws(seed: int) -> None:
    """Seed the global generators of this process's devices, from which dropout draws.

    As `torch.manual_seed`, but for devices that nothing has used yet: torch notes a seed for each of them together
    with the formatted stack, which costs more than a small step.

    Args:
        seed: any 64 bits.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
