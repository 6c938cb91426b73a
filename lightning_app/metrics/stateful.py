"""The metrics as torchmetrics.Metric classes: states that add up over batches and processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_app.metrics.ssim import dssim, psnr
from lightning_app.metrics.verification import Protocol, VerificationResult, verification


class _ImageMean(Metric):
    """Mean over all images, of all batches and processes, of a metric per image."""

    is_differentiable = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, metrics: Tensor) -> None:
        self.total = self.total + metrics.sum()
        self.count = self.count + len(metrics)

    def compute(self) -> Tensor:
        """Return the mean over the images seen, a scalar; nan where there were none."""
        return self.total / self.count


class DSSIM(_ImageMean):
    """Mean over images of dSSIM = 1 − SSIM (see `lightning_app.metrics.dssim`); higher = less alike.

    Args:
        kwargs: options of `torchmetrics.Metric`.

    Shapes: `update(a, b)` takes `[B,C,H,W]` floats in [0,1]; `compute()` gives a scalar in [0,2].

    Example:
        >>> import torch
        >>> metric = DSSIM()
        >>> black, white = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
        >>> metric.update(black, white)
        >>> metric.update(white, white)
        >>> f"{metric.compute().item():.3f}"
        '0.500'
    """

    higher_is_better = True  # more is hidden

    def update(self, a: Tensor, b: Tensor) -> None:
        """Add a batch of image pairs.

        Args:
            a: `[B,C,H,W]` float in [0,1].
            b: the same shape and range.
        """
        self._add(dssim(a, b))


class PSNR(_ImageMean):
    """Mean over images of PSNR = 10 log10(1 / MSE) in dB (see `lightning_app.metrics.psnr`).

    One pair of identical images makes the mean inf.

    Args:
        kwargs: options of `torchmetrics.Metric`.

    Shapes: `update(a, b, mask)` takes `[B,C,H,W]` floats in [0,1] and a mask `[1 or B,1,H,W]` of the pixels
    to compare, or None; `compute()` gives a scalar in dB.

    Example:
        >>> import torch
        >>> metric = PSNR()
        >>> black = torch.zeros(1, 3, 8, 8)
        >>> metric.update(black, black + 0.1)
        >>> metric.update(black, black + 0.01)
        >>> f"{metric.compute().item():.1f} dB"
        '30.0 dB'
    """

    higher_is_better = True

    def update(self, a: Tensor, b: Tensor, mask: Tensor | None = None) -> None:
        """Add a batch of image pairs.

        Args:
            a: `[B,C,H,W]` float in [0,1].
            b: the same shape and range.
            mask: `[1 or B,1,H,W]`, 1 = compare here; None for all pixels.
        """
        self._add(psnr(a, b, mask))


class Verification(Metric):
    """Verification metrics of all pairs seen (see `lightning_app.metrics.verification`).

    Pairs carry their number: order does not matter, and a pair that a padded sampler hands out twice counts
    once (of scores that differ by rounding the lower). Use `update` and `compute`, not `forward`: a single
    batch seldom has what the protocol needs.

    Args:
        fars: false accept rates to report the true accept rate at.
        bootstrap: number of resamples for the intervals; 0 for none.
        seed: of the resamples.
        prefix: of the keys, before the slash.
        suffix: of the keys, for example `_s2`.
        protocol: how thresholds are chosen, `lfw` or `insightface`.
        kwargs: options of `torchmetrics.Metric`.

    Attributes:
        result: the whole `VerificationResult`, thresholds included, of the last `compute()`; None before.

    Shapes: `update(scores, same, folds, index)` takes four tensors `[P]`; `compute()` gives the flat dict of
    `VerificationResult.as_dict`.

    Example:
        >>> import torch
        >>> metric = Verification(bootstrap=0)
        >>> same = torch.tensor([True, False])
        >>> for fold, scores in enumerate(([0.9, 0.2], [0.8, 0.4])):
        ...     index = torch.arange(2) + 2 * fold
        ...     metric.update(torch.tensor(scores), same, torch.full((2,), fold), index)
        >>> {key: round(value, 3) for key, value in metric.compute().items()}
        {'lfw/accuracy': 1.0, 'lfw/std': 0.0, 'lfw/auc': 1.0, 'lfw/eer': 0.0, 'lfw/threshold': 0.575}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    scores: list[Tensor]
    same: list[Tensor]
    folds: list[Tensor]
    index: list[Tensor]

    def __init__(
        self,
        fars: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4),
        bootstrap: int = 1000,
        seed: int = 0,
        prefix: str = "lfw",
        suffix: str = "",
        protocol: Protocol = "lfw",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.protocol: Protocol = protocol
        self.fars = tuple(fars)
        self.bootstrap = bootstrap
        self.seed = seed
        self.prefix = prefix
        self.suffix = suffix
        self.result: VerificationResult | None = None
        for name in ("scores", "same", "folds", "index"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, same: Tensor, folds: Tensor, index: Tensor) -> None:
        """Add a batch of pairs.

        Args:
            scores: `[P]` float, higher = more alike.
            same: `[P]` bool, True = the same person.
            folds: `[P]` integers, the fold of each pair.
            index: `[P]` integers, the pair's number in its list.

        Raises:
            ValueError: the four are not vectors of one length.
        """
        given = {"scores": scores, "same": same, "folds": folds, "index": index}
        if scores.ndim != 1 or any(values.shape != scores.shape for values in given.values()):
            shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in given.items())
            raise ValueError(f"Verification: got {shapes}; give four vectors of one length, [P]")
        for name, values in given.items():
            getattr(self, name).append(values.detach().to(self.device, self._kind(name)))

    def _kind(self, name: str) -> torch.dtype:
        if name == "scores":
            return torch.float32 if self.device.type == "mps" else torch.float64  # MPS has no float64
        return torch.bool if name == "same" else torch.int64

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the pairs of all processes; one that has none sends empty tensors of the right kind."""
        if not self._is_synced:
            for name in ("scores", "same", "folds", "index"):
                if not getattr(self, name):  # torchmetrics itself would send float32, which does not match
                    setattr(self, name, [torch.empty(0, device=self.device, dtype=self._kind(name))])
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, float]:
        """Return the flat metrics of all pairs and keep the whole result in `result`.

        Raises:
            ValueError: no pairs, one number with two contents, or as `verification` does.
        """
        states = (self.scores, self.same, self.folds, self.index)
        scores, same, folds, index = (dim_zero_cat(state).cpu().numpy() for state in states)
        order = np.lexsort((scores, index))
        scores, same, folds, index = scores[order], same[order], folds[order], index[order]
        again = np.zeros(len(index), dtype=bool)
        again[1:] = index[1:] == index[:-1]
        differs = again & ((same != np.roll(same, 1)) | (folds != np.roll(folds, 1)))
        if differs.any():
            raise ValueError(
                f"Verification: pair {index[differs][0]} was given twice with another same or fold; "
                "give every pair its own index"
            )
        self.result = verification(
            scores[~again],
            same[~again],
            folds[~again],
            fars=self.fars,
            bootstrap=self.bootstrap,
            seed=self.seed,
            protocol=self.protocol,
        )
        return self.result.as_dict(self.prefix, self.suffix)

    def reset(self) -> None:
        """Forget all pairs and the last result."""
        super().reset()
        self.result = None
