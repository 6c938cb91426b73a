"""A measured number with its interval: made where it is measured, read by every table, file, page and logger."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import SupportsFloat


@dataclass(frozen=True)
class Measurement:
    """A number, how sure it is, and what people should know of it.

    Attributes:
        key: log key of the value, such as `lfw/accuracy_s2`.
        value: the number.
        low: lower end of its 95 % interval; None where there is none.
        high: upper end.
        higher_is_better: which way is better; None where nobody looks for the best.
        label: what tables call it; where it is empty, no table has a row of its own for it.
        std: standard deviation; None where there is none.
        std_key: log key of the standard deviation; empty where it has none.
        tail: what ends the key and stays at the end in the keys of low and high: a situation such as `_s2`, or a judge
            such as `/dlib`.
        form: how tables write it: a format of Python's, or `time` for seconds.

    Raises:
        ValueError: the key does not end with the tail, or a standard deviation has no key.

    Example:
        >>> Measurement("lfw/accuracy_s2", 0.9, 0.8, 1.0, tail="_s2").flat()
        {'lfw/accuracy_s2': 0.9, 'lfw/accuracy_low_s2': 0.8, 'lfw/accuracy_high_s2': 1.0}
    """

    key: str
    value: float
    low: float | None = None
    high: float | None = None
    higher_is_better: bool | None = None
    label: str = ""
    std: float | None = None
    std_key: str = ""
    tail: str = ""
    form: str = ".4f"

    def __post_init__(self) -> None:
        """Check that the keys go together."""
        if not self.key.endswith(self.tail):
            raise ValueError(f"Measurement: key {self.key!r} does not end with its tail {self.tail!r}")
        if self.std is not None and not self.std_key:
            raise ValueError(
                f"Measurement: {self.key} has std={self.std}: give std_key, the log key of it, too"
            )

    @property
    def low_key(self) -> str:
        """Log key of `low`."""
        return f"{self.key.removesuffix(self.tail)}_low{self.tail}"

    @property
    def high_key(self) -> str:
        """Log key of `high`."""
        return f"{self.key.removesuffix(self.tail)}_high{self.tail}"

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high; the value itself where there is none."""
        return (
            self.value if self.low is None else self.low,
            self.value if self.high is None else self.high,
        )

    def flat(self) -> dict[str, float]:
        """Return log key → number, as `metrics.json`, CSV and loggers have it: the value, then what else there is."""
        rest = ((self.std_key, self.std), (self.low_key, self.low), (self.high_key, self.high))
        return {self.key: self.value} | {key: number for key, number in rest if number is not None}

    def taken_from(self, metrics: Mapping[str, float]) -> Measurement:
        """Return the same measurement with the numbers that flat metrics have under its keys.

        Args:
            metrics: log key → number; `key` must be there.
        """
        return replace(
            self,
            value=metrics[self.key],
            low=metrics.get(self.low_key),
            high=metrics.get(self.high_key),
            std=metrics.get(self.std_key),
        )


def flat(measurements: Iterable[Measurement]) -> dict[str, float]:
    """Return log key → number of several measurements.

    Args:
        measurements: any.
    """
    return {key: number for one in measurements for key, number in one.flat().items()}


def find(metrics: Mapping[str, float], key: str, tail: str = "") -> Measurement | None:
    """Read a measurement out of flat metrics.

    Args:
        metrics: log key → number.
        key: of the value.
        tail: see `Measurement`.

    Returns:
        The value with what else is there; None where the value is not, or is NaN: nothing was measured then.

    Example:
        >>> find({"rank1/dlib": 0.5, "rank1_low/dlib": 0.4, "rank1_high/dlib": 0.6}, "rank1/dlib", "/dlib").interval
        (0.4, 0.6)
    """
    value = metrics.get(key, math.nan)
    return None if math.isnan(value) else Measurement(key, value, tail=tail).taken_from(metrics)


def seven_digits(value: SupportsFloat) -> float:
    """Return a logged number as it was measured: Lightning keeps float32, which has seven digits.

    Args:
        value: a number or a tensor with one.

    Example:
        >>> seven_digits(0.8504999876022339)
        0.8505
    """
    return float(f"{float(value):.7g}")
