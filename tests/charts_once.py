"""Curves of a thousand tiny fits, drawn once: matplotlib takes as long as the fit, and no test looks at what they show.

That a fit's curves are what its `metrics.csv` says is for `tests/runs/test_listing.py`, which draws them itself.
"""

from __future__ import annotations

import pytest
from PIL import Image

from callbacks import results
from lightning_app.report.curves import Curves, curves_chart

_DRAWN: dict[tuple[str, ...], Image.Image | None] = {}


def remember_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fits of this test leave the picture of an earlier fit that logged the same keys.

    Args:
        monkeypatch: of the test.
    """
    monkeypatch.setattr(results, "curves_chart", _once)


def _once(curves: Curves, title: str = "") -> Image.Image | None:
    keys = tuple(sorted(curves))
    if keys not in _DRAWN:
        _DRAWN[keys] = curves_chart(curves, title)
    return _DRAWN[keys]
