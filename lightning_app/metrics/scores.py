"""The second paper's scores: raw indicators S1 … S5, and what a table of methods makes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALPHA, BETA = 0.4, 0.6  # weights of what is released and of what an attack recovers (section 4.2.4)
LOWEST, HIGHEST = 0.5, 1.0  # what scores are normalised to, over the methods of a table


@dataclass(frozen=True)
class Indicators:
    """What is measured of one method; kept as it is, since scores move with the other rows of a table.

    Attributes:
        s1: LPIPS of the clean image and the released one, the mean over images.
        s2: 1 − cosine of a clean recogniser's embeddings of the two, the mean over images.
        s3: as `s1`, of what an attack recovers.
        s4: as `s2`, of what an attack recovers.
        s5: accuracy on desensitized faces ÷ that on clean ones, each of a recogniser trained on such.
    """

    s1: float
    s2: float
    s3: float
    s4: float
    s5: float


@dataclass(frozen=True)
class Scores:
    """One method's row, all in [0.5, 1] beside the other rows of its table.

    Attributes:
        privacy: formula 9.
        accuracy: formula 10.
        product: formula 11 as the paper's text has it: privacy × accuracy.
        mean: what the paper's Table 2 has in that column: (privacy + accuracy) ÷ 2.
    """

    privacy: float
    accuracy: float
    product: float
    mean: float


def accuracy_indicator(desensitized: float, clean: float) -> float:
    """Return S5, the accuracy on desensitized faces as a share of that on clean ones.

    Args:
        desensitized: of a recogniser trained on desensitized faces, 0 … 1.
        clean: of one trained on clean faces, above 0 … 1.

    Raises:
        ValueError: `clean` is not above 0.
    """
    if not clean > 0:
        raise ValueError(f"clean: {clean}; give the accuracy on clean faces, above 0")
    return desensitized / clean


def privacy_indicator(of: Indicators, alpha: float = ALPHA, beta: float = BETA) -> float:
    """Return what formula 9 normalises: α (S1 + S2) / 2 + β (S3 + S4) / 2; higher is more private.

    Args:
        of: a method's indicators.
        alpha: weight of what is released.
        beta: weight of what is recovered.

    Source: formula 9 of the adaptive hybrid masking paper, as it was reconstructed; N stands before the whole sum.
    """
    return alpha * (of.s1 + of.s2) / 2 + beta * (of.s3 + of.s4) / 2


def accuracy_part(of: Indicators) -> float:
    """Return what formula 10 normalises: S5.

    Args:
        of: a method's indicators.
    """
    return of.s5


def normalised(values: Sequence[float], low: float = LOWEST, high: float = HIGHEST) -> list[float]:
    """Stretch values linearly so that the least becomes `low` and the greatest `high`.

    Where all are equal nothing tells them apart: each becomes `high`. NaN, a hole of the table, stays NaN.

    Args:
        values: of the table's methods.
        low: of the result.
        high: of the result.

    Example:
        >>> normalised([98.93, 66.53, 82.73])
        [1.0, 0.5, 0.75]
    """
    known = [value for value in values if not math.isnan(value)]
    least, most = (min(known), max(known)) if known else (0.0, 0.0)
    if least == most:
        return [value if math.isnan(value) else high for value in values]
    return [low + (high - low) * ((value - least) / (most - least)) for value in values]  # NaN stays NaN


def scores(table: Mapping[str, Indicators], alpha: float = ALPHA, beta: float = BETA) -> dict[str, Scores]:
    """Return the scores of a table's methods; another row, or one less, moves them all.

    Args:
        table: method → indicators; clean faces, against which the others are measured, are no row of it.
        alpha: weight of what is released.
        beta: weight of what is recovered.

    Source: formulas 9 to 11 of the adaptive hybrid masking paper, section 4.2.4.
    """
    privacy = normalised([privacy_indicator(one, alpha, beta) for one in table.values()])
    accuracy = normalised([accuracy_part(one) for one in table.values()])
    return {
        method: Scores(p, a, p * a, (p + a) / 2)
        for method, p, a in zip(table, privacy, accuracy, strict=True)
    }
