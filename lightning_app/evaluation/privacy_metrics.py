"""What was measured of a desensitized set as metrics with intervals: over people, or over pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from datamodules.verification.readers import PairList
from lightning_app.core.measurement import Measurement
from lightning_app.evaluation.judges.base import Judge
from lightning_app.evaluation.privacy import Stored, Subjects, short_hash
from lightning_app.metrics import verification
from lightning_app.metrics.reidentification import mean_over_people, worst_identities

# what is measured per image: name -> sign that makes a higher value less private
_LIKENESS = {"dssim": -1, "psnr": 1, "psnr_hidden": 1, "lpips": -1}
_RANKS = {"rank1": 1, "rank5": 5}


def clean_metrics(
    part: Stored, subjects: Subjects, judges: Mapping[str, Judge], bootstrap: int = 1000
) -> dict[str, float]:
    """Make metrics of how well judges tell clean faces apart, with 95 % intervals (`_low`, `_high`).

    Args:
        part: of `measure_clean`.
        subjects: whose.
        judges: label -> judge.
        bootstrap: resamples; 0 for no intervals.

    Returns:
        By judge that is in the part `judge_accuracy/J` (pair protocol, both images clean) and `judge_rank1/J`.
    """
    out: dict[str, float] = {}
    probes = subjects.probes
    for label, judge in judges.items():
        if f"pairs/{short_hash(judge)}" not in part:
            continue
        out |= _verified(
            "judge_accuracy", part[f"pairs/{short_hash(judge)}"], subjects.pairs, bootstrap, label
        )
        if len(probes):
            right = (part[f"rank/{short_hash(judge)}"][probes] <= 1).double()
            ends = mean_over_people(right, subjects.labels[probes], bootstrap)
            out |= Measurement(f"judge_rank1/{label}", *ends, tail=f"/{label}").flat()
    return {name: value for name, value in out.items() if value == value}  # without bootstrap no intervals


def privacy_metrics(
    part: Stored,
    subjects: Subjects,
    judges: Mapping[str, Judge],
    recognisers: Mapping[str, Judge],
    bootstrap: int = 1000,
) -> dict[str, float]:
    """Make metrics of what was measured, with 95 % intervals (`_low`, `_high`) over people or over pairs.

    Args:
        part: of `measure`.
        subjects: whose.
        judges: label -> judge.
        recognisers: label -> recogniser.
        bootstrap: resamples; 0 for no intervals.

    Returns:
        `dssim`, `psnr`, `psnr_hidden`, `lpips` (means over images); by judge `similarity/J`, `rank1/J`, `rank5/J`,
        `verification/J` (accuracy of telling whether a clean image and one as seen are of the same person, pair
        protocol); by recogniser `accuracy/R` (the same of two images as seen); and `worst/…`: what one person in
        twenty is worse off than (95th percentile over people of each one's mean). A value that is NaN stays, for
        whoever asks to see that something was not measured.
    """
    out: dict[str, float] = {}
    labels = subjects.labels
    measured: set[str] = set()  # keys that are no end of an interval, and nothing of the worst off

    def add(name: str, values: Tensor, of: Tensor, sign: int, judge: str = "") -> None:
        one = Measurement(f"{name}{judge}", *mean_over_people(values, of, bootstrap), tail=judge)
        if name in _RANKS and bootstrap and one.value in (0, 1):
            # resampling what never happened says 'never': the exact 95 % bound for so many people instead
            bound = 0.05 ** (1 / len(of.unique()))
            one = replace(one, low=bound) if one.value else replace(one, high=1 - bound)
        out.update(one.flat())
        measured.add(one.key)
        out[f"worst/{name}{judge}"] = sign * worst_identities(sign * values.double(), of) + 0.0  # no −0

    for name, sign in _LIKENESS.items():
        if name in part:
            add(name, part[name], labels, sign)
    probes = subjects.probes
    for label, judge in judges.items():
        short = short_hash(judge)
        if f"own/{short}" not in part:
            continue
        add("similarity", part[f"own/{short}"], labels, 1, f"/{label}")
        ranks = part[f"rank/{short}"][probes]
        for name, k in _RANKS.items() if len(probes) else ():
            add(name, (ranks <= k).double(), labels[probes], 1, f"/{label}")
        out |= _verified("verification", part[f"linked/{short}"], subjects.pairs, bootstrap, label)
    for label, judge in recognisers.items():
        if f"pairs/{short_hash(judge)}" in part:
            out |= _verified("accuracy", part[f"pairs/{short_hash(judge)}"], subjects.pairs, bootstrap, label)
    # without bootstrap no intervals, without names of people nobody is worst off
    return {name: value for name, value in out.items() if value == value or name in measured}


def _verified(name: str, scores: Tensor, pairs: PairList, bootstrap: int, label: str) -> dict[str, float]:
    result = verification(scores.double(), pairs.same, pairs.folds, bootstrap=bootstrap)
    return Measurement(f"{name}/{label}", result.accuracy, *result.accuracy_ci, tail=f"/{label}").flat()
