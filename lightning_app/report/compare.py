"""Methods side by side: utility against privacy, and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lightning_app.core.measurement import find
from lightning_app.report.columns import RELEASED as RELEASED
from lightning_app.report.columns import find_metric

Metrics = Mapping[str, float]
# method -> attack -> why more may be seen, or why nothing was measured
LeftOpen = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Measure:
    """A way to measure privacy.

    Attributes:
        label: what it is called.
        higher_is_private: whether a higher value is the more private one.
        judged: whether judges measure it.
        share: whether it is a share, shown in %.
    """

    label: str
    higher_is_private: bool = False
    judged: bool = False
    share: bool = False


MEASURES = {
    "rank1": Measure("rank-1 re-identification", judged=True, share=True),
    "rank5": Measure("rank-5 re-identification", judged=True, share=True),
    "verification": Measure("verification against clean images", judged=True, share=True),
    "similarity": Measure("similarity with the own clean image", judged=True),
    "dssim": Measure("dSSIM", higher_is_private=True),
    "lpips": Measure("LPIPS", higher_is_private=True),
    "psnr": Measure("PSNR, dB"),
    "psnr_hidden": Measure("PSNR under the mask, dB"),
}
# Okabe and Ito's colours: told apart by colour-blind people too
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")


@dataclass(frozen=True)
class Axis:
    """What stands for privacy in the picture.

    Attributes:
        measure: a key of `MEASURES`.
        judge: by whom it is measured; None takes whoever sees most.
    """

    measure: str
    judge: str | None = None

    @property
    def higher_is_private(self) -> bool:
        """Whether more of it is more private."""
        return MEASURES[self.measure].higher_is_private

    @property
    def scale(self) -> float:
        """Return what metrics are multiplied by to be shown: 100 for shares."""
        return 100.0 if MEASURES[self.measure].share else 1.0

    @property
    def bound(self) -> str:
        """Return the sign before a value where more may be seen than it says."""
        return "≤" if self.higher_is_private else "≥"

    @property
    def title(self) -> str:
        """Return the title of the axis."""
        by = f" by {self.judge}" if self.judge else ""
        unit = ", %" if self.scale == 100 else ""
        return f"{MEASURES[self.measure].label}{by} after the strongest attack{unit}"


@dataclass(frozen=True)
class Hole:
    """Attackers that failed on a method: it gives away what was measured, and nobody knows how much more.

    Attributes:
        failed: their labels; `RELEASED` where it was not measured as it is released.
        attacked: whether another attacker was measured on it.
    """

    failed: tuple[str, ...]
    attacked: bool

    @property
    def words(self) -> str:
        """Return what failed, in a few words."""
        names = [one for one in self.failed if one != RELEASED]
        said = []
        if names and self.attacked:
            said.append(
                f"{'an attacker' if len(names) == 1 else 'some of its attackers'} failed: {', '.join(names)}"
            )
        elif names:
            said.append(f"its attacker{'s' if len(names) > 1 else ''} failed: {', '.join(names)}")
        if len(names) < len(self.failed):
            said.append(f"not measured {RELEASED}")
        return "; ".join(said)

    def mark(self, axis: Axis) -> str:
        """Return what stands behind the method's name in a picture.

        Args:
            axis: what stands for privacy.
        """
        return f"{axis.bound}, an attack failed" if self.attacked else "not attacked"


@dataclass(frozen=True)
class Point:
    """One method in the picture: privacy after the strongest attack, and utility; in the units they are shown in.

    Attributes:
        label: the method.
        x: privacy measure, with its 95 % interval.
        y: accuracy of situation 1 in %, with its 95 % interval.
        attack: which attack it is that sees most, `RELEASED` where none does.
        judge: by whom; empty for measures without judges.
        front: whether no other method is at least as good in both and better in one.
        hole: which of its attackers failed; it is not on the front then, and beats nobody.
    """

    label: str
    x: float
    x_low: float
    x_high: float
    y: float
    y_low: float
    y_high: float
    attack: str
    judge: str
    front: bool = False
    hole: Hole | None = None


def parse_axis(text: str, judges: Sequence[str]) -> Axis:
    """Read a privacy axis: a measure, or `measure/judge`.

    Args:
        text: such as `rank1`, `dssim` or `verification/dlib`.
        judges: labels there are.

    Raises:
        ValueError: no such measure or judge, or a judge for a measure that has none, or the other way round.
    """
    measure, _, judge = text.partition("/")
    if measure not in MEASURES:
        raise ValueError(f"privacy_axis: {text!r}; give one of {', '.join(MEASURES)}")
    judged = MEASURES[measure].judged
    if judge and (not judged or judge not in judges):
        raise ValueError(
            f"privacy_axis: {text!r}: {f'judges are {list(judges)}' if judged else f'{measure} has no judges'}"
        )
    if judged and not judges:
        raise ValueError(
            f"privacy_axis: {text!r} is measured by judges, and there are none: give judges, or dssim"
        )
    return Axis(measure, judge or None)


StrongestValue = tuple[
    float, float, float, str, str
]  # value, low and high as measured, the attack and the judge


def strongest(
    metrics: Metrics, attacks: Sequence[str], judges: Sequence[str], axis: Axis
) -> StrongestValue | None:
    """Find the attack that sees most of a method.

    Args:
        metrics: of the method; those of an attack under `ATTACK/`.
        attacks: labels.
        judges: labels.
        axis: what is looked at.

    Returns:
        Value, low and high as measured, the attack (`RELEASED` for none) and the judge; None where nothing was
        measured.
    """
    return _most([one for a in (RELEASED, *attacks) for one in _seen(metrics, a, judges, axis)], axis)


def _seen(metrics: Metrics, attack: str, judges: Sequence[str], axis: Axis) -> list[StrongestValue]:
    whom = ([axis.judge] if axis.judge else list(judges)) if MEASURES[axis.measure].judged else [""]
    found = [(find_metric(metrics, axis.measure, judge, attack), judge) for judge in whom]
    return [(one.value, *one.interval, attack, judge) for one, judge in found if one is not None]


def _most(seen: Sequence[StrongestValue], axis: Axis) -> StrongestValue | None:
    return (min if axis.higher_is_private else max)(seen, key=lambda one: one[0], default=None)


def most_seen(metrics: Metrics, attack: str, judges: Sequence[str], axis: Axis) -> StrongestValue | None:
    """Return what is seen after one attack by whoever sees most; None where nobody looked.

    Args:
        metrics: of the method.
        attack: label; `RELEASED` for none.
        judges: labels.
        axis: what stands for privacy.
    """
    return _most(_seen(metrics, attack, judges, axis), axis)


def hole_of(
    results: Mapping[str, Metrics], label: str, attacks: Sequence[str], judges: Sequence[str], axis: Axis,
    left_open: LeftOpen | None = None, linkers: Sequence[str] = (),
) -> Hole | None:  # fmt: skip
    """Find which attackers failed on a method, as far as they would have had a say on this axis.

    An attack whose reason is given and whose value is there has not failed: its loss may still fall, and it counts.

    Args:
        results: method -> its metrics.
        label: of the method.
        attacks: labels.
        judges: labels.
        axis: what is looked at.
        left_open: method -> attack -> why more may be seen, or why nothing was measured.
        linkers: those of the judges that are attackers: trained on the method, they look at what is released.

    Returns:
        What failed; None where nothing did.
    """
    given = (left_open or {}).get(label, {})
    seen = {attack: _whom(results[label], attack, judges, axis) for attack in (RELEASED, *attacks)}

    def failed(attack: str) -> bool:
        if not _has_say(attack, attacks, axis, linkers):
            return False
        if attack not in seen:  # a linker
            return attack not in seen[RELEASED]
        # a judge that measured the attack on another method, and not on this one, found no number
        others = {judge for metrics in results.values() for judge in _whom(metrics, attack, judges, axis)}
        return not seen[attack] or not others - {*linkers, *given} <= seen[attack]

    names = tuple(attack for attack in given if failed(attack))
    attacked = any(seen[attack] for attack in attacks) or bool(seen[RELEASED].intersection(linkers))
    return Hole(names, attacked) if names else None


def open_on(
    opened: Mapping[str, str], attacks: Sequence[str], axis: Axis, linkers: Sequence[str] = ()
) -> dict[str, str]:
    """Return why more of a method may be seen than its verdict on an axis says; empty where it is the last word.

    An attacker without a say on the axis leaves nothing open there, such as a U-Net where a linker is asked, which
    looks at no attack's pictures. A judge that is missing leaves every verdict open.

    Args:
        opened: attack -> why more may be seen by it.
        attacks: labels.
        axis: what is looked at.
        linkers: see `hole_of`.
    """
    return {attack: why for attack, why in opened.items() if _has_say(attack, attacks, axis, linkers)}


def _has_say(attack: str, attacks: Sequence[str], axis: Axis, linkers: Sequence[str]) -> bool:
    if attack not in (RELEASED, *attacks):  # a linker, which is a judge
        return MEASURES[axis.measure].judged and axis.judge in (None, attack)
    return attack == RELEASED or axis.judge not in linkers  # who see no attack's pictures


def _whom(metrics: Metrics, attack: str, judges: Sequence[str], axis: Axis) -> set[str]:
    return {one[4] for one in _seen(metrics, attack, judges, axis)}


def points_of(
    results: Mapping[str, Metrics], attacks: Sequence[str], judges: Sequence[str], axis: Axis,
    left_open: LeftOpen | None = None, linkers: Sequence[str] = (),
) -> list[Point]:  # fmt: skip
    """Make the points of the picture; methods without accuracy or without a finite measure have none.

    Where an attacker failed, what a method gives away is not known to be as little as was measured: it is not on the
    front, and beats nobody.

    Args:
        results: method -> its metrics.
        attacks: labels.
        judges: labels.
        axis: what stands for privacy.
        left_open: see `hole_of`.
        linkers: see `hole_of`.
    """
    made = []
    for label, metrics in results.items():
        seen = strongest(metrics, attacks, judges, axis)
        y = find(metrics, "accuracy")
        if seen is None or y is None or not math.isfinite(seen[0]):
            continue
        x, x_low, x_high = (axis.scale * value for value in seen[:3])
        y_low, y_high = (100 * value for value in y.interval)
        hole = hole_of(results, label, attacks, judges, axis, left_open, linkers)
        made.append(Point(label, x, x_low, x_high, 100 * y.value, y_low, y_high, seen[3], seen[4], hole=hole))
    sign = -1 if axis.higher_is_private else 1
    known = [p for p in made if p.hole is None]
    best = pareto([(sign * p.x, -p.y) for p in known])
    front = {p.label for p, unbeaten in zip(known, best, strict=True) if unbeaten}
    return [replace(p, front=p.label in front) for p in made]


def pareto(costs: Sequence[tuple[float, float]]) -> list[bool]:
    """Return which of several choices no other one beats: at most the same cost in both, less in one.

    Args:
        costs: lower is better in both.

    Example:
        >>> pareto([(1.0, 3.0), (2.0, 2.0), (2.0, 3.0), (3.0, 1.0)])
        [True, True, False, True]
    """
    return [not any(a <= x and b <= y and (a < x or b < y) for a, b in costs) for x, y in costs]


def staircase(points: Sequence[Point], axis: Axis) -> list[tuple[float, float]]:
    """Return the corners of the line along the Pareto front, from the most private method to the most useful.

    Args:
        points: all of them.
        axis: what stands for privacy.
    """
    sign = -1 if axis.higher_is_private else 1
    front = sorted({(sign * p.x, p.y) for p in points if p.front})
    corners: list[tuple[float, float]] = []
    for x, y in front:
        if corners:
            corners.append((sign * x, corners[-1][1]))
        corners.append((sign * x, y))
    return corners


def name_of(point: Point, axis: Axis) -> str:
    """Return what stands beside a point: the method, and whether attackers failed on it.

    Args:
        point: the point.
        axis: what stands for privacy.
    """
    return point.label if point.hole is None else f"{point.label} ({point.hole.mark(axis)})"
