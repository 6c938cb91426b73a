"""Heads with a margin: scaled cosines, of which the right class's is made harder in training (ArcFace, CosFace)."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_app.networks.heads import HEADS, Head, at_least_fp32, merged, mixed_cross_entropy

LIMIT = 1 - 1e-6  # of |cos θ| where an angle is taken: the gradient of the angle is infinite at 1


def arc_cosine(cosine: Tensor, m: float, monotone: bool = True) -> Tensor:
    """Compute cos(θ + m) of cos θ, ArcFace's additive angular margin.

    Args:
        cosine: of any shape, fp32 or fp64; clamped at ±(1 − 1e-6), so that gradients are finite.
        m: radians, 0 … π/2.
        monotone: beyond θ = π − m take cos θ − m·sin m (TFace, and ArcFace's first code), which falls as θ grows.
            Without it cos(θ + m) rises there again, and training would push such an image further away.

    Returns:
        The shape of `cosine`.
    """
    cosine = cosine.clamp(-LIMIT, LIMIT)
    found = cosine * math.cos(m) - (1 - cosine.square()).sqrt() * math.sin(m)
    if not monotone:
        return found
    return torch.where(cosine > math.cos(math.pi - m), found, cosine - m * math.sin(m))


class MarginHead(Head):
    """Base of heads with a margin: `s·(cos θ + ỹ ⊙ Δ(cos θ))`, then one cross-entropy (paper 2, Algorithm 1).

    ỹ is the row of label shares: an image of one person has a 1 there. A class that is seen twice in a mix adds up.
    ỹ is never laid out over the classes: Δ is computed at the labels alone, and added there. All in fp32, also within
    autocast. `logits` are the scaled cosines `s·cos θ`, without a margin.

    Where the set is small the full margin may not train from scratch. `ramp` lets it rise: at the share t of the run,
    m is multiplied by min(t / ramp, 1), and s goes from `s_start` to s alike. It is a function of the step alone, so
    that a resumed run goes on as the whole one did. In `eval` m and s are always the full ones: validation losses can
    be compared over epochs, and between runs with another ramp.

    Args:
        dim: width D of the embeddings.
        classes: how many are told apart.
        s: the scale, above 0.
        m: the margin.
        ramp: share of the run, 0 … 1, over which the margin rises from 0.
        s_start: the scale at the start of the ramp; by default s all along.

    Raises:
        ValueError: a scale, margin or ramp out of its range.
    """

    largest_m: float = 1.0

    def __init__(
        self,
        dim: int,
        classes: int,
        s: float = 64.0,
        m: float = 0.5,
        ramp: float = 0.0,
        s_start: float | None = None,
    ) -> None:
        super().__init__(dim, classes)
        for name, scale in (("s", s), ("s_start", s if s_start is None else s_start)):
            if not 0 < scale < math.inf:
                raise ValueError(f"{name}: {scale} is not above 0; 16 … 64 is usual")
        if not 0 <= m <= self.largest_m:
            raise ValueError(f"m: {m} is not within 0 … {self.largest_m:.4g}")
        if not 0 <= ramp <= 1:
            raise ValueError(f"ramp: {ramp} is not within 0 … 1; it is a share of the run")
        if s_start is not None and ramp == 0:
            raise ValueError(
                f"s_start: {s_start}, but ramp is 0: give a share of the run, or leave s_start out"
            )
        self.s, self.m, self.ramp, self.s_start = s, m, ramp, s_start
        # rows of length about 1: scores do not depend on it, but shorter ones turn too fast at first (the gradient is
        # divided by the length), and InsightFace's 0.01 learnt more slowly on LFW-a
        self.weight = nn.Parameter(torch.empty(classes, dim).normal_(std=max(dim, 1) ** -0.5))
        self._risen = 1.0  # share of the ramp that is done; no state: the step tells it

    def at(self, progress: float) -> None:
        """Set margin and scale for a step of training.

        Args:
            progress: share of the run that is done, 0 … 1.
        """
        self._risen = 1.0 if self.ramp == 0 else min(max(progress, 0.0) / self.ramp, 1.0)

    @property
    def margin(self) -> float:
        """The margin in force: m in `eval`, less during a ramp."""
        return self._risen * self.m if self.training else self.m

    @property
    def scale(self) -> float:
        """The scale in force: s in `eval`, between `s_start` and s during a ramp."""
        if self.s_start is None or not self.training:
            return self.s
        return self.s_start + self._risen * (self.s - self.s_start)

    @abstractmethod
    def shift(self, cosine: Tensor, m: float) -> Tensor:
        """Return Δ, what a margin adds to the cosines of the right classes.

        Args:
            cosine: `[B,k]`, fp32 or fp64.
            m: the margin in force.
        """

    def forward(
        self, embedding: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy with a margin, and the logits without, see `Head.forward`."""
        with torch.autocast(embedding.device.type, enabled=False):
            logits = self.logits(embedding)
            if weight is None and target.ndim == 1:
                labels, shares = target[:, None], logits.new_ones(())
            else:
                weight = merged(target, weight)
                labels, shares = target, weight.to(logits.dtype)
            right = logits.gather(1, labels) / self.scale  # [B,k]
            added = self.scale * shares * self.shift(right, self.margin)
            scores = logits.scatter_add(1, labels, added)
            return mixed_cross_entropy(scores, target, weight), logits

    def logits(self, embedding: Tensor) -> Tensor:
        """Return `s·cos θ`, in fp32 (fp64 of fp64)."""
        with torch.autocast(embedding.device.type, enabled=False):
            unit = F.normalize(at_least_fp32(embedding))
            return F.linear(self.scale * unit, F.normalize(at_least_fp32(self.weight)).to(unit.dtype))

    def weight_of(self, classes: Tensor) -> Tensor:
        """Return the classes' directions, of length 1."""
        return F.normalize(self.weight[classes])


class ArcFaceHead(MarginHead):
    """ArcFace: an angle of m is added to the one between an embedding and its class (Deng et al., 2019).

    Args:
        dim: width D of the embeddings.
        classes: how many are told apart.
        s: the scale, above 0.
        m: the margin, 0 … π/2 radians.
        ramp: share of the run, 0 … 1, over which the margin rises from 0; for small sets.
        s_start: the scale at the start of the ramp; by default s all along.
        monotone: beyond θ = π − m take cos θ − m·sin m, as TFace does; False: cos(θ + m) everywhere, as the paper has
            it.

    Raises:
        ValueError: a scale, margin or ramp out of its range.
    """

    largest_m = math.pi / 2

    def __init__(
        self,
        dim: int,
        classes: int,
        s: float = 64.0,
        m: float = 0.5,
        ramp: float = 0.0,
        s_start: float | None = None,
        monotone: bool = True,
    ) -> None:
        super().__init__(dim, classes, s, m, ramp, s_start)
        self.monotone = monotone

    def shift(self, cosine: Tensor, m: float) -> Tensor:
        """Return `cos(θ + m) − cos θ`."""
        return arc_cosine(cosine, m, self.monotone) - cosine.clamp(-LIMIT, LIMIT)


class CosFaceHead(MarginHead):
    """CosFace: m is taken off the cosine between an embedding and its class (Wang et al., 2018).

    Args:
        dim: width D of the embeddings.
        classes: how many are told apart.
        s: the scale, above 0.
        m: the margin, 0 … 1.
        ramp: share of the run, 0 … 1, over which the margin rises from 0; for small sets.
        s_start: the scale at the start of the ramp; by default s all along.

    Raises:
        ValueError: a scale, margin or ramp out of its range.
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        s: float = 64.0,
        m: float = 0.4,
        ramp: float = 0.0,
        s_start: float | None = None,
    ) -> None:
        super().__init__(dim, classes, s, m, ramp, s_start)

    def shift(self, cosine: Tensor, m: float) -> Tensor:
        """Return `−m`."""
        return torch.full_like(cosine, -m)


HEADS.update({kind.__name__: kind for kind in (ArcFaceHead, CosFaceHead)})
