"""What each method gives away at what accuracy, for every judge a reader may pick: as data, JSON and CSV."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_app.core.measurement import Measurement
from lightning_app.report.columns import RELEASED, find_metric
from lightning_app.report.compare import (
    MEASURES,
    Axis,
    Hole,
    LeftOpen,
    Metrics,
    Point,
    hole_of,
    open_on,
    points_of,
    strongest,
)
from lightning_app.report.judges import Clean, standing

_ALSO = ("verification", "rank1")  # measures that a reader may pick beside the comparison's own
_SITUATIONS = ("accuracy", "accuracy_s2", "accuracy_s3")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is known of methods, before it is shown.

    Attributes:
        results: method -> metric -> value; those of an attack under `ATTACK/`.
        description: method -> what it is, in a few words.
        attacks: labels.
        judges: label -> what it is.
        axis: what stands for privacy at first.
        words: method -> a paragraph in plain words.
        clean: judge -> how well it tells clean faces apart.
        open: method -> attack -> why its metric says 'at least', such as a loss that still falls, or a training
            that failed.
        linkers: those of the judges that are attackers, trained on each method.
        contaminated: `judges.LABEL` or `recognisers.LABEL` -> that it was trained on people who are attacked, or that
            nobody knows.
    """

    results: Mapping[str, Metrics]
    description: Mapping[str, str]
    attacks: Sequence[str]
    judges: Mapping[str, str]
    axis: Axis
    words: Mapping[str, str] = field(default_factory=dict)
    clean: Mapping[str, Clean] = field(default_factory=dict)
    open: LeftOpen = field(default_factory=dict)
    linkers: Sequence[str] = ()
    contaminated: Mapping[str, str] = field(default_factory=dict)

    def points(self, axis: Axis) -> list[Point]:
        """Return the points of the picture.

        Args:
            axis: what stands for privacy.
        """
        return points_of(self.results, self.attacks, list(self.judges), axis, self.open, self.linkers)

    def hole(self, label: str, axis: Axis) -> Hole | None:
        """Return which attackers failed on a method; None where none did.

        Args:
            label: of the method.
            axis: what is looked at.
        """
        return hole_of(self.results, label, self.attacks, list(self.judges), axis, self.open, self.linkers)

    def open_on(self, label: str, axis: Axis) -> dict[str, str]:
        """Return why a verdict says 'at least': attack -> why; empty where it is the last word.

        Args:
            label: of the method.
            axis: what is looked at.
        """
        return open_on(self.open.get(label, {}), self.attacks, axis, self.linkers)


def key_of(axis: Axis) -> str:
    """Return what a reader picks: the measure, or `measure/judge`.

    Args:
        axis: what is picked.
    """
    return axis.measure + (f"/{axis.judge}" if axis.judge else "")


def views(found: Measured) -> list[Axis]:
    """List what a reader may pick: the comparison's own axis first, then each measure by each judge.

    Args:
        found: what is known.
    """
    names = dict.fromkeys((found.axis.measure, *(_ALSO if found.judges else ())))
    out = [found.axis]
    for name in names:
        judged = MEASURES[name].judged
        whom = [None, *found.judges] if judged and len(found.judges) > 1 else [None]
        out += [Axis(name, judge) for judge in whom]
    return list(dict.fromkeys(out))


def data_of(found: Measured) -> dict[str, Any]:
    """Make plain values of all that is known, strict JSON: what is infinite is null.

    Args:
        found: what is known.

    Returns:
        `attacks`, `judges`, `views` (what may be picked) and `methods`: of each its accuracies, all metrics, and under
        `strongest`, by view, what the strongest attack sees, which it is and by whom; `at_least`, why it may be more;
        `front` where no other method beats it in both, and `unknown`, which attackers failed on it: then it is not on
        the front, and beats nobody.
    """
    picked = views(found)
    fronts = {key_of(axis): {p.label for p in found.points(axis) if p.front} for axis in picked}
    return {
        "attacks": list(found.attacks),
        "judges": {
            label: {"about": description, "standing": standing(found.clean.get(label)),
                    "contaminated": found.contaminated.get(f"judges.{label}", ""),
                    **(vars(found.clean[label]) if label in found.clean else {})}
            for label, description in found.judges.items()
        },
        "views": [
            {"key": key_of(axis), "measure": axis.measure, "judge": axis.judge, "label": axis.title,
             "short": f"{MEASURES[axis.measure].label}, "
                      + (f"by {axis.judge}" if axis.judge else "whoever sees most"),
             "more_is_private": axis.higher_is_private, "unit": "%" if axis.scale == 100 else ""}
            for axis in picked
        ],
        "methods": [_method(found, label, picked, fronts) for label in found.results],
    }  # fmt: skip


def lines_of(found: Measured) -> list[list[object]]:
    """Make the lines of a CSV: one for each method and view, a head first; metrics as they are measured.

    Args:
        found: what is known.
    """
    head = ["method", "accuracy", "accuracy_low", "accuracy_high", "measure", "judge", "strongest", "low", "high",
            "attack", "by", "front", "at_least", "unknown"]  # fmt: skip
    lines: list[list[object]] = [list(head)]
    data = data_of(found)
    views = {view["key"]: view for view in data["views"]}
    for method in data["methods"]:
        accuracy = method["accuracy"] or {}
        for key, seen in method["strongest"].items():
            lines.append([
                method["label"], *(_blank(accuracy.get(k)) for k in ("value", "low", "high")), views[key]["measure"],
                views[key]["judge"] or "", *(_blank(seen[k]) for k in ("value", "low", "high")), seen["attack"],
                seen["by"], int(seen["front"]), seen["at_least"], seen["unknown"],
            ])  # fmt: skip
    return lines


def _method(
    found: Measured, label: str, picked: Sequence[Axis], fronts: Mapping[str, set[str]]
) -> dict[str, Any]:
    metrics = found.results[label]
    return {
        "label": label,
        "about": found.description.get(label, ""),
        "words": found.words.get(label, ""),
        **{name: _plain(find_metric(metrics, name)) for name in _SITUATIONS},
        "open": dict(found.open.get(label, {})),
        "strongest": {key_of(axis): seen for axis, seen in _seen(found, metrics, picked, label, fronts)},
        "figures": {key: value if math.isfinite(value) else None for key, value in metrics.items()},
    }


def _seen(
    found: Measured, metrics: Metrics, picked: Sequence[Axis], label: str, fronts: Mapping[str, set[str]]
) -> Iterator[tuple[Axis, dict[str, Any]]]:
    for axis in picked:
        one = strongest(metrics, found.attacks, list(found.judges), axis)
        if one is None:
            continue
        value, low, high, attack, judge = one
        hole = found.hole(label, axis)
        yield axis, {
            "value": _finite(value), "low": _finite(low), "high": _finite(high), "attack": attack,
            "by": judge, "front": label in fronts[key_of(axis)],
            "at_least": "; ".join(f"{attack}: {why}" for attack, why in found.open_on(label, axis).items()),
            "unknown": "" if hole is None else hole.words,
        }  # fmt: skip


def _plain(one: Measurement | None) -> dict[str, float | None] | None:
    if one is None:
        return None
    low, high = one.interval
    return {"value": _finite(one.value), "low": _finite(low), "high": _finite(high)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _blank(value: float | None) -> object:
    return "" if value is None else value


def paragraph(found: Measured, label: str) -> str:
    """Return in plain words how a method fares: its use, and what the strongest attack sees.

    Args:
        found: what is known.
        label: of the method.
    """
    metrics = found.results[label]
    said = []
    if (accuracy := find_metric(metrics, "accuracy")) is not None:
        said.append(
            f"A recogniser trained on it tells, for {100 * accuracy.value:.1f} of 100 pairs of faces, whether they are "
            "the same person."
        )
    seen = strongest(metrics, found.attacks, list(found.judges), found.axis)
    if seen is not None and math.isfinite(seen[0]):
        how = "looking at it as it is released" if seen[3] == RELEASED else f"the attack ‘{seen[3]}’"
        by = f", judged by {seen[4]}" if seen[4] and len(found.judges) > 1 else ""
        value = f"{found.axis.scale * seen[0]:.1f} %" if found.axis.scale == 100 else f"{seen[0]:.2f}"
        hole = found.hole(label, found.axis)
        if hole is not None:
            said.append(f"What it gives away is not known: {hole.words}.")
        most = "Most" if hole is None else "Of what was measured, most"
        said.append(f"{most} is seen by {how}{by}: {MEASURES[found.axis.measure].label} {value}.")
    for attack, why in found.open.get(label, {}).items():
        said.append(
            f"Not all has been looked at: {why}."
            if attack == RELEASED
            else f"‘{attack}’ may still find more: {why}."
        )
    return " ".join(said)
