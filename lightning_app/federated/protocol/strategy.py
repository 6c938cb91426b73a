"""How the server makes new global weights of its owners' updates, by `class_path`; the default is the paper's mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from lightning_app.federated.protocol.aggregate import aggregate
from lightning_app.federated.protocol.messages import Update, Weights
from lightning_app.federated.protocol.weights import not_finite, unlike

FEDAVG: dict[str, Any] = {"class_path": "lightning_app.federated.protocol.strategy.FedAvg", "init_args": {}}


class Strategy(ABC):
    """Combine a round's updates into the next global weights; a subclass overrides `combine`.

    What the owners send, and which updates the server takes (`refusal`, `max_update_norm`, `max_images_ratio`), is
    none of its concern. It keeps nothing from one round to the next: a run that was stopped goes on from its
    checkpoint, which holds the weights alone.
    """

    @abstractmethod
    def combine(self, updates: Sequence[Update], reference: Weights) -> Weights:
        """Return the new global weights.

        Args:
            updates: at least one, each of another owner, in the order of the owners' numbers, all checked;
                `images` is what each counts for.
            reference: the global weights that all started from.

        Returns:
            Name -> tensor, with the names, shapes and types of `reference`, finite; batch norm's variances at least 0.
        """

    def __call__(self, updates: Sequence[Update], reference: Weights) -> Weights:
        """Combine updates, and check what came of it.

        Raises:
            ValueError: it is of another network than `reference`, or not finite.
        """
        found = self.combine(sorted(updates, key=lambda update: update.client), reference)
        wrong = unlike(found, reference) or not_finite(found)
        if wrong is not None:
            raise ValueError(
                f"strategy {type(self).__name__}: what it makes of the updates cannot be used: {wrong}"
            )
        return found


class FedAvg(Strategy):
    """Average the owners' weights by their number of images (paper, 3.4), see `aggregate`."""

    def combine(self, updates: Sequence[Update], reference: Weights) -> Weights:
        """Return the mean, see `Strategy.combine`."""
        return aggregate(updates)
