"""Heads: what turns embeddings into class scores, and scores into a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def at_least_fp32(x: Tensor) -> Tensor:
    """Return half-precision numbers in fp32, others as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def mixed_cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Compute the mean cross-entropy, also where every image has several weighted labels.

    `−Σ_k weight_k log p(target_k)`, smoothed as torch's `cross_entropy` does it. No dense `[B,classes]` target is made.

    Args:
        logits: `[B,classes]`; computed in fp32, of fp64 in fp64.
        target: `[B]` int64 classes, or `[B,k]` for images whose labels are mixed.
        weight: `[B,k]`, rows summing to 1; needed for `[B,k]` targets, else None.
        label_smoothing: share of the target spread over all classes, 0 … 1.

    Returns:
        A scalar, in nats.

    Raises:
        ValueError: target and weight do not fit each other.
    """
    if target.ndim == 1 and weight is None:
        return F.cross_entropy(at_least_fp32(logits), target, label_smoothing=label_smoothing)
    weight = _checked(target, weight)
    logs = F.log_softmax(at_least_fp32(logits), dim=1)
    rows = (weight.to(logs.dtype) * logs.gather(1, target)).sum(1, keepdim=True)  # [B,1]
    # added up, and smoothed, in torch's own order: one label of weight 1 gives the plain loss bit for bit
    loss = F.nll_loss(rows, target.new_zeros(len(rows)))
    if label_smoothing:
        smooth = -logs.sum(1).sum() / len(logs)
        loss = smooth * (label_smoothing / logs.shape[1]) + loss * (1 - label_smoothing)
    return loss


def _checked(target: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None or target.ndim != 2 or target.shape != weight.shape:
        given = None if weight is None else list(weight.shape)
        raise ValueError(
            f"target of shape {list(target.shape)} with weight of shape {given}: give [B] without a weight, or [B, k] "
            "with a weight [B, k] whose rows sum to 1"
        )
    return weight


def merged(target: Tensor, weight: Tensor | None) -> Tensor:
    """Add up the shares of a label that an image has several times.

    The first of them gets the sum, the others 0: what is then added up per class has one summand that is not 0, and
    does not depend on the order in which a GPU adds.

    Args:
        target: `[B,k]` int64.
        weight: `[B,k]`.

    Returns:
        `[B,k]`, whose rows sum to what they summed to.

    Raises:
        ValueError: target and weight do not fit each other.
    """
    weight = _checked(target, weight)
    if target.shape[1] == 1:
        return weight
    alike = target[:, :, None] == target[:, None, :]  # [B,k,k]
    first = ~alike.tril(-1).any(2)
    return torch.where(first, (alike * weight[:, None, :]).sum(2), 0)


def accuracy_of(logits: Tensor, target: Tensor) -> Tensor:
    """Return the share of a batch that is classified rightly; a scalar.

    torchmetrics' `multiclass_accuracy` gives the same number with some twenty kernels more, at every step.

    Args:
        logits: `[B,classes]`.
        target: `[B]` int64.
    """
    return (logits.argmax(1) == target).float().mean()


def heaviest(target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the label that accuracy is measured against: of mixed labels the heaviest, of ties the first.

    Args:
        target: `[B]` or `[B,k]` int64.
        weight: `[B,k]` for mixed labels.

    Returns:
        `[B]` int64.
    """
    if weight is None or target.ndim == 1:
        return target
    return target.gather(1, weight.argmax(1, keepdim=True)).squeeze(1)


class Head(nn.Module, ABC):
    """Base of heads: class scores of an embedding, and the loss they are trained with.

    A subclass takes (dim, classes) first, and what else it needs, with defaults, after them. Its weights have a row
    per class: `weight [classes, dim]`; where they are stored otherwise, override `classes_in`.

    Args:
        dim: width D of the embeddings.
        classes: how many are told apart.

    Attributes:
        dim: D.
        num_classes: how many classes; 0 for `NoHead`.
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.dim, self.num_classes = dim, classes

    @abstractmethod
    def forward(
        self, embedding: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the loss and the class scores.

        Args:
            embedding: `[B,D]`, of any length.
            target: `[B]` int64, or `[B,k]` for mixed labels.
            weight: `[B,k]`, rows summing to 1, for mixed labels.

        Returns:
            A scalar loss, in fp32, and `logits(embedding)`.
        """

    @abstractmethod
    def logits(self, embedding: Tensor) -> Tensor:
        """Return the class scores `[B,classes]` of embeddings `[B,D]`; no target, hence no margin."""

    @abstractmethod
    def weight_of(self, classes: Tensor) -> Tensor:
        """Return what speaks for a class, per component of the embedding.

        Args:
            classes: `[B]` int64.

        Returns:
            `[B,D]`: positive where the component raises the class's score. Excitation backprop starts here.
        """

    def at(self, progress: float) -> None:  # most heads are the same all along
        """Set what changes over a run; called before each step of training, and a function of the step alone.

        Args:
            progress: share of the run's optimiser steps that is done, 0 … 1.
        """

    @classmethod
    def classes_in(cls, state: Mapping[str, Tensor]) -> int | None:
        """Return how many classes a head's saved weights are for; None where they are not such a head's.

        Args:
            state: of a head's `state_dict`.
        """
        weight = state.get("weight")
        return None if weight is None else len(weight)


HeadMaker = Callable[[int, int], Head]  # (dim, classes): a subclass of Head, or a functools.partial of one


class SoftmaxHead(Head):
    """A linear layer and cross-entropy.

    Args:
        dim: width D of the embeddings.
        classes: how many are told apart.
        label_smoothing: share of the target spread over all classes, 0 … 1; in training only.

    Raises:
        ValueError: a label_smoothing outside 0 … 1.
    """

    def __init__(self, dim: int, classes: int, label_smoothing: float = 0.0) -> None:
        super().__init__(dim, classes)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing: {label_smoothing} is not within 0 … 1")
        self.label_smoothing = label_smoothing
        linear = nn.Linear(dim, classes)  # its way of drawing them
        self.weight, self.bias = linear.weight, linear.bias

    def forward(
        self, embedding: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy and the logits, see `Head.forward`."""
        logits = self.logits(embedding)
        smoothing = self.label_smoothing if self.training else 0.0
        return mixed_cross_entropy(logits, target, weight, smoothing), logits

    def logits(self, embedding: Tensor) -> Tensor:
        """Return `embedding Wᵀ + b`."""
        return F.linear(embedding, self.weight, self.bias)

    def weight_of(self, classes: Tensor) -> Tensor:
        """Return the classes' rows of W."""
        return self.weight[classes]


class NoHead(Head):
    """Stands where a head is not yet made, or was left out of the weights; it has no classes and gives no scores."""

    def __init__(self, dim: int = 0) -> None:
        super().__init__(dim, 0)

    def forward(
        self, embedding: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Raise a ValueError: there are no classes."""
        raise ValueError(_HEADLESS)

    def logits(self, embedding: Tensor) -> Tensor:
        """Raise a ValueError: embeddings must not be taken for scores."""
        raise ValueError(_HEADLESS)

    def weight_of(self, classes: Tensor) -> Tensor:
        """Raise a ValueError: there are no classes."""
        raise ValueError(_HEADLESS)


_HEADLESS = "these weights come without the head: they embed, and do not classify"
HEADS: dict[str, type[Head]] = {SoftmaxHead.__name__: SoftmaxHead}  # what a checkpoint may name untrusted


def make_head(maker: HeadMaker | None, dim: int, classes: int, label_smoothing: float = 0.0) -> Head:
    """Make a head.

    Args:
        maker: of (dim, classes); None for `SoftmaxHead`.
        dim: width of the embeddings.
        classes: how many are told apart.
        label_smoothing: of its targets; 0 leaves the head's own.

    Raises:
        ValueError: it makes no `Head`, or one that cannot smooth labels where that is asked for.
    """
    try:
        head = (maker or SoftmaxHead)(dim, classes)
    except TypeError as error:
        raise ValueError(f"head: cannot be made of (dim, classes) and its init_args ({error})") from error
    if not isinstance(head, Head):
        raise ValueError(f"head: {type(head).__name__} is no subclass of lightning_app.networks.Head")
    if label_smoothing:
        if not hasattr(head, "label_smoothing"):
            raise ValueError(
                f"label_smoothing: {label_smoothing}, but {type(head).__name__} smooths no labels: set it to 0"
            )
        setattr(head, "label_smoothing", label_smoothing)  # noqa: B010  # of some heads alone
    return head


def classes_in(maker: HeadMaker | None, dim: int, state: Mapping[str, Tensor]) -> int | None:
    """Return how many classes a head's saved weights are for, by the head that would take them.

    Args:
        maker: see `make_head`.
        dim: width of the embeddings.
        state: the head's weights.

    Returns:
        The number; None where these weights are not such a head's.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # takes no memory and draws nothing
        return type(make_head(maker, dim, 1)).classes_in(state)
