"""The tables of the cost study; its paired difference by hand, and its interval against a normal approximation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks import mask_cost
from benchmarks.mask_cost import paired_difference


def test_the_mean_is_that_of_seeds_and_pairs_and_equal_runs_do_not_differ() -> None:
    ours, theirs = [[1, 1, 1, 0], [1, 1, 0, 0]], [[1, 0, 0, 0]]
    found = paired_difference(ours, theirs, resamples=200)
    assert found.mean == pytest.approx(5 / 8 - 1 / 4)
    assert found.low <= found.mean <= found.high
    same = paired_difference(theirs, theirs, resamples=200)
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_the_interval_is_that_of_paired_differences() -> None:
    """One run each: the paired differences' own standard error; the same pairs make it narrower than two samples'."""
    random = np.random.default_rng(1)
    hard = random.random(4000)
    ours, theirs = (hard < 0.85).astype(float), (hard < 0.80).astype(float)
    found = paired_difference([ours], [theirs], resamples=1000)
    error = (ours - theirs).std() / np.sqrt(4000)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_seeds_that_differ_widen_the_interval() -> None:
    random = np.random.default_rng(2)
    theirs = [random.random(2000) < 0.8 for _ in range(3)]
    steady = [random.random(2000) < 0.8 for _ in range(3)]
    moody = [random.random(2000) < p for p in (0.7, 0.8, 0.9)]
    wide, narrow = (paired_difference(runs, theirs, resamples=400) for runs in (moody, steady))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


@pytest.mark.parametrize("ours", [[], [[1, 0]], [1, 0, 1]])
def test_runs_on_other_pairs_are_refused(ours: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="on the same pairs"):
        paired_difference(ours, [[1, 0, 1]])


def test_the_table_has_means_over_seeds_and_paired_differences(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    same, folds = torch.arange(400) % 2 == 0, torch.arange(400) // 100
    for kind, gain in (("good", 4.0), ("bad", 0.5)):
        for seed in (1, 2):
            run = tmp_path / f"{kind}_s{seed}"
            (run / "scores").mkdir(parents=True)
            accuracy = {"lfw/accuracy": 0.9 + seed / 100, "train/accuracy": 0.5}
            (run / "metrics.json").write_text(json.dumps(accuracy))
            scores = torch.randn(400, generator=generator) + gain * same
            kept = {"scores_s1": scores, "same": same.to(torch.uint8), "folds": folds.to(torch.int16)}
            save_file(kept, run / "scores" / "lfw.safetensors")
    kinds = mask_cost.runs_in(tmp_path)
    lines = mask_cost.table(kinds, kinds["bad"], mask_cost.FIGURES)
    assert lines[2] == "| bad | 2 | 91.5 ± 0.7 |  |  | 50.0 ± 0.0 |  |"
    head, _, gap = lines[3].rpartition(" | +")
    assert head == "| good | 2 | 91.5 ± 0.7 |  |  | 50.0 ± 0.0"
    mean, low = (float(part.strip("[,+")) for part in gap.split()[:2])
    assert 30 < mean < 45  # Φ(2) less Φ(0.25), about 0.977 less 0.599
    assert 20 < low < mean


def test_a_kind_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        mask_cost.main([str(tmp_path), "--against", "clean"])
    assert "--against 'clean': choose one of (no finished run)" in capsys.readouterr().err
