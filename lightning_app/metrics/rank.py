"""Do two judges rank alike: Spearman's rank correlation, with an interval."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from lightning_app.core.measurement import Measurement

Floats = npt.NDArray[np.float64]


def rank_correlation(
    a: Floats, b: Floats, groups: npt.NDArray[np.int64], bootstrap: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Return whether two recognisers rank masks alike: Spearman's rho, over all masks and within levels.

    Over all levels rho is high already because both find it harder the more is hidden; so `rho_within` ranks
    within each level alone: the correlation of the ranks less their level's mean.

    Args:
        a: `[N]` accuracy of one under each mask.
        b: `[N]` of the other.
        groups: `[N]` level of each mask.
        bootstrap: resamples of the masks, within their levels, behind the 95 % percentile intervals.
        seed: of the resamples.

    Returns:
        `rho`, `rho_low`, `rho_high` and the same of `rho_within`, in [-1,1]; nan where one of them is constant.
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]

    def both(rows: list[npt.NDArray[np.int64]]) -> tuple[float, float]:
        every = np.concatenate(rows)
        inner = [np.concatenate([rankdata(x[row]) - (len(row) + 1) / 2 for row in rows]) for x in (a, b)]
        return _pearson(rankdata(a[every]), rankdata(b[every])), _pearson(*inner)

    resampled = np.array([both([rng.choice(row, len(row)) for row in members]) for _ in range(bootstrap)])
    metrics: dict[str, float] = {}
    for column, (name, value) in enumerate(zip(("rho", "rho_within"), both(members), strict=True)):
        some = resampled[:, column] if bootstrap else np.empty(0)
        some = some[np.isfinite(some)]
        low, high = np.quantile(some, (0.025, 0.975)) if len(some) else (np.nan, np.nan)
        metrics |= Measurement(name, value, float(low), float(high)).flat()
    return metrics


def _pearson(x: Floats, y: Floats) -> float:
    """Return the correlation; nan of what is constant, without the warning that SciPy's gives for each resample."""
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else float("nan")
