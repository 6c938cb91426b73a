from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest
from scipy.stats import hypergeom

from lightning_app.release.audit.odds import detection, typical


def test_by_hand() -> None:
    # 5 of 10 images compared: one leaking image is among them every other time
    assert detection(10, 5, 1) == pytest.approx(1 / 2, rel=1e-12)
    # two leaking ones are both missed with (5/10)·(4/9)
    assert detection(10, 5, 2) == pytest.approx(1 - Fraction(5, 10) * Fraction(4, 9), rel=1e-12)
    assert detection(10, 0, 3) == 0
    assert detection(10, 3, 0) == 0
    assert detection(10, 10, 1) == detection(10, 6, 5) == 1


@pytest.mark.parametrize(("images", "compared", "leaking"), [
    (48, 5, 1), (1000, 64, 10), (13233, 64, 133), (13233, 133, 64), (3_000_000, 64, 30_000), (200, 150, 40),
])  # fmt: skip
def test_against_scipy_and_exact_counts(images: int, compared: int, leaking: int) -> None:
    found = detection(images, compared, leaking)
    assert found == pytest.approx(1 - hypergeom(images, leaking, compared).pmf(0), rel=1e-9, abs=1e-12)
    if images < 10**5:
        missed = Fraction(comb(images - leaking, compared), comb(images, compared))
        assert found == pytest.approx(float(1 - missed), rel=1e-12)


def test_typical_cases() -> None:
    assert typical(4000, 64) == {
        "one": pytest.approx(64 / 4000), "ten": detection(4000, 64, 10), "one_percent": detection(4000, 64, 40)
    }  # fmt: skip
    assert typical(6, 6) == {"one": 1, "one_percent": 1}, "there are no ten"
    assert typical(150, 1)["one_percent"] == detection(150, 1, 2), "rounded up"


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"compared: 11 is not in 0 … 10 images"):
        detection(10, 11, 1)
    with pytest.raises(ValueError, match=r"leaking: -1 is not in 0 … 10 images"):
        detection(10, 1, -1)
