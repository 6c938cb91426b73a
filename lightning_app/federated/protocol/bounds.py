"""What one owner may do to the mean: how long its update may be, and for how many images it counts.

Both are measured against the other owners' in the same round, so that they suit any network, learning rate and set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from lightning_app.federated.protocol.messages import Update, Weights

# Healthy updates measured 0.05 … 2.7 times the norm of the weights, and at most 1.5 times the middle one of the
# others' (docs/federated.md): these are far from both.
LONGEST, BESIDE = 100.0, 10.0
_NOTHING = 1e-3  # of the norm of the weights: an update so short does no harm, however short the others' are
_LONGER = 100.0  # times the others' batches: more allow no longer update
_ABSURD = 100.0  # times the limit of images: no mistake any more, and no owner to go on with
_GROWTH = 10.0  # times what an owner has said in earlier rounds


def middle(values: Sequence[float]) -> float:
    """Return the middle one of some values, of an even number the upper one.

    Args:
        values: at least one.
    """
    return sorted(values)[len(values) // 2]


def _spread(name: str, value: Tensor) -> Tensor:
    """Take of batch norm's variances the standard deviations: they grow with the weights, variances with the square.

    In a run that begins with a high learning rate variances are thousands of times as large for some steps. What is
    below 0 is no variance and counts by its size: clamped, it would bring the mean to 0 and count as nothing.
    """
    value = value.double()
    return value.sign() * value.abs().sqrt() if name.endswith(".running_var") else value


def _norm(values: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(value.square().sum()) for value in values))


def overlong(updates: Sequence[Update], reference: Weights) -> dict[int, str]:
    """Return which updates are longer than any healthy one, and why.

    Long in this sense: the Euclidean norm of all it changed, with batch norm's standard deviations in place of its
    variances. The limits are 100 times the norm of the global weights, and, of three updates or more, 10 times the
    middle one of the others' norms, times how many more batches the owner trained on than the middle one of the
    others. A minority of owners can neither hide a long update of its own nor have an honest one left out.

    Args:
        updates: of a round, all of the same names and shapes, finite.
        reference: the global weights they started from.

    Returns:
        Client's number → reason, of those that are too long.
    """
    start = {name: _spread(name, value) for name, value in reference.items()}
    own = _norm(start.values())
    norms = {
        update.client: _norm(_spread(name, value) - start[name] for name, value in update.weights.items())
        for update in updates
    }
    found = {}
    for update in updates:
        norm = norms[update.client]
        others = [other for other in updates if other is not update]
        if norm > LONGEST * own:
            found[update.client] = f"{LONGEST:g} times the global weights' {own:.4g}"
        elif len(others) > 1:
            usual = middle([norms[other.client] for other in others])
            more = update.batches / middle([other.batches for other in others])
            more = min(max(1.0, more), _LONGER)  # the number of batches is the owner's word as well
            if norm > max(BESIDE * usual * more, _NOTHING * own):
                found[update.client] = f"{BESIDE * more:.4g} times the middle one of the others', {usual:.4g}"
    return {
        client: f"its update is {norms[client]:.4g} long, above {limit} (max_update_norm takes its place)"
        for client, limit in found.items()
    }


def overcounted(updates: Sequence[Update], ratio: float, earlier: Mapping[int, int]) -> dict[int, str]:
    """Return which owners' numbers of images cannot be true, and why.

    Args:
        updates: of a round.
        ratio: `max_images_ratio`.
        earlier: client's number → the most images it has seen in an earlier round.

    Returns:
        Client's number → reason.
    """
    found = {}
    for update in updates:
        before = earlier.get(update.client)
        others = [other.images for other in updates if other is not update]
        if before is not None and math.isfinite(ratio) and update.images > _GROWTH * before:
            found[update.client] = (
                f"it says it saw {update.images} images: in earlier rounds it saw {before} at most"
            )
        elif others and update.images > _ABSURD * ratio * middle(others):
            found[update.client] = (
                f"it says it saw {update.images} images: the others saw {middle(others):g} (max_images_ratio={ratio:g})"
            )
    return found


def counts(updates: Sequence[Update], ratio: float) -> dict[int, int]:
    """Return for how many images each update counts in the mean.

    Args:
        updates: of a round, at least one.
        ratio: `max_images_ratio`: nobody counts for more than so many times the middle one of the others.

    Returns:
        Client's number → images.
    """
    found = {}
    for update in updates:
        others = [other.images for other in updates if other is not update]
        most = ratio * middle(others) if others else math.inf
        found[update.client] = update.images if update.images <= most else max(1, int(most))
    return found
