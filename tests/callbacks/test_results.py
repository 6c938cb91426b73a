from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from callbacks import DSSIMReport, Results
from callbacks.results import _remarks
from lightning_app.metrics import verification
from lightning_app.report import print_table, read_metrics, rows_of, write_atomically, write_metrics
from tests.callbacks.tiny_run import MakeTrainer, Recorder, TinyData, TinyModel


def strict(path: Path) -> dict[str, Any]:
    def refuse(name: str) -> NoReturn:
        raise AssertionError(f"{name} is no JSON")

    metrics = json.loads(path.read_text(), parse_constant=refuse)
    assert isinstance(metrics, dict)
    return metrics


def verified() -> dict[str, float]:
    generator = np.random.default_rng(0)
    same = np.tile([True, False], 200)
    scores = same + generator.normal(0, 0.7, 400)
    result = verification(scores, same, np.repeat(np.arange(10), 40), bootstrap=50)
    return {**result.as_dict("lfw"), **result.as_dict("lfw", "_s1"), **result.as_dict("lfw", "_s2")}


def test_fit_prints_writes_and_logs(make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    recorder, lfw = Recorder(), verified()
    trainer = make_trainer(DSSIMReport(), Results(), logger=recorder)
    trainer.fit(TinyModel(lfw), datamodule=TinyData())
    run_dir = Path(trainer.default_root_dir)
    metrics = strict(run_dir / "metrics.json")
    assert metrics["lfw/accuracy"] == pytest.approx(lfw["lfw/accuracy"], abs=1e-6)
    assert set(lfw) < set(metrics)
    assert metrics["run/model"] == "TinyModel"
    assert (metrics["run/epochs"], metrics["run/steps"]) == (2, 6)
    assert metrics["privacy/mask_ratio"] == 0.5
    assert 0 < metrics["time/fit_s"] < 300
    assert metrics["time/images_per_s"] > 0
    assert metrics["memory/peak_mb"] > 50
    assert list(metrics) == sorted(metrics)

    table = capsys.readouterr().out
    for text in (f"{lfw['lfw/accuracy']:.4f} ± {lfw['lfw/std']:.4f}", "0.5000", "TinyModel", "lfw EER"):
        assert text in table
    assert f"The run lies in {run_dir}: " in table
    ((key, columns, rows),) = recorder.tables
    assert (key, columns) == ("results/fit", ["metric", "value"])
    assert rows[:2] == [["model", "TinyModel"], ["mask ratio", "0.5000"]]
    assert recorder.metrics["run/steps"] == 6


def test_validate_adds_to_what_a_fit_measured_and_changes_none_of_it(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Results())
    trainer.fit(TinyModel({"lfw/accuracy": 0.5}), datamodule=TinyData())
    path = Path(trainer.default_root_dir) / "metrics.json"
    before = strict(path)
    trainer.validate(TinyModel({"lfw/accuracy": 0.75, "lfw/auc": 0.8}), datamodule=TinyData(), verbose=False)
    after, own = strict(path), strict(path.with_name("metrics.validate.json"))
    assert (before["lfw/accuracy"], after["lfw/accuracy"], own["lfw/accuracy"]) == (0.5, 0.5, 0.75)
    assert after["lfw/auc"] == own["lfw/auc"] == pytest.approx(0.8)
    assert "time/validate_s" in after
    assert {key: after[key] for key in before} == before == strict(path.with_name("metrics.fit.json"))
    trainer = make_trainer(Results(), epochs=1)
    trainer.fit(TinyModel(), datamodule=TinyData())  # a new fit starts anew
    assert not {"lfw/accuracy", "time/validate_s"} & set(strict(path))
    assert strict(path) == strict(path.with_name("metrics.fit.json"))


def test_test_writes_too(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Results())
    trainer.test(TinyModel(), datamodule=TinyData(), verbose=False)
    assert {"test/loss", "time/test_s"} < set(strict(Path(trainer.default_root_dir) / "metrics.json"))


@pytest.mark.parametrize(("fail", "raised"), [(RuntimeError, RuntimeError), (KeyboardInterrupt, SystemExit)])
def test_a_fit_that_ends_badly_writes_nothing(
    make_trainer: MakeTrainer,
    fail: type[BaseException],
    raised: type[BaseException],
    capsys: pytest.CaptureFixture[str],
) -> None:
    trainer = make_trainer(Results())
    path = Path(trainer.default_root_dir) / "metrics.json"
    path.parent.mkdir()
    path.write_text('{"train/loss": 1.5}')
    with pytest.raises(raised):
        trainer.fit(TinyModel(fail=fail), datamodule=TinyData())
    assert path.read_text() == '{"train/loss": 1.5}'
    assert "metric" not in capsys.readouterr().out


def test_a_trial_of_one_batch_leaves_no_figures(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Results(), fast_dev_run=True)
    trainer.fit(TinyModel(), datamodule=TinyData())
    assert not (Path(trainer.default_root_dir) / "metrics.json").exists()


@pytest.mark.parametrize("kind", ["accuracy", "auc"])
@pytest.mark.parametrize(("low", "guessed"), [(0.45, True), (0.55, False), (None, False)])
def test_who_only_guesses_is_said(low: float | None, guessed: bool, kind: str) -> None:
    metrics = {
        "lfw/accuracy": 0.6,
        "lfw/auc": 0.6,
        "lfw/std": 0.1,
        "val/accuracy": 0.1,
        "val/accuracy_low": 0.05,
        "val/accuracy_high": 0.2,
    }
    if low is not None:
        metrics |= {f"lfw/{kind}_low": low, f"lfw/{kind}_high": 0.7}
    said = _remarks(metrics)
    assert ("± over the folds, [95 % interval over the pairs]" in said) == (low is not None)
    assert (
        any(f"lfw/{kind} 0.600: by its interval no better than guessing (0.5)" in one for one in said)
        == guessed
    )
    assert not any("val/accuracy" in one for one in said), "classes of a task are not two"


def test_rows_join_spread_and_interval_and_leave_twins_out() -> None:
    rows = rows_of(
        {
            "lfw/accuracy": 0.8, "lfw/std": 0.01, "lfw/accuracy_low": 0.75, "lfw/accuracy_high": 0.85,
            "lfw/accuracy_s1": 0.8, "lfw/std_s1": 0.01, "lfw/accuracy_low_s1": 0.75,
            "lfw/accuracy_s3": 0.6, "lfw/std_s3": 0.02, "lfw/auc_s3": 0.65, "lfw/tar_at_far_1e-2_s3": 0.1,
            "lfw/tar_at_far_1e-2": 0.4, "privacy/psnr": math.inf, "val/loss": math.nan, "time/fit_s": 3723.4,
            "my/figure": 1.0,
        }
    )  # fmt: skip
    assert rows == [
        ["lfw verification accuracy", "0.8000 ± 0.0100  [0.7500, 0.8500]"],
        ["lfw accuracy, both clean", "0.6000 ± 0.0200"],
        ["lfw TAR@FAR=1e-2", "0.4000"],
        ["PSNR, dB", "∞"],
        ["validation loss", "n/a"],
        ["time", "1:02:03 (3723.4 s)"],
        ["my/figure", "1.0000"],
    ]


def test_rows_of_real_verification_figures() -> None:
    rows = dict(rows_of(verified()))
    assert list(rows)[:2] == [
        "lfw verification accuracy",
        "lfw accuracy, clean vs desensitized",
    ]
    threshold = rows.pop("lfw threshold of the cosine")
    assert -1 <= float(threshold) <= 2  # of scores that are no cosines here
    assert all("[" in text for text in rows.values())  # every metric has its interval beside it
    assert not any("/" in name for name in rows)  # nothing is left under its bare key


def test_write_metrics_is_flat_sorted_and_strict(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.json"
    write_metrics(path, {"b": torch.tensor(0.5), "a": math.nan, "c": np.float32(2), "d": -math.inf, "e": "x"})
    assert strict(path) == {"a": None, "b": 0.5, "c": 2.0, "d": None, "e": "x"}
    assert list(strict(path)) == ["a", "b", "c", "d", "e"]
    write_metrics(path, {"a": 1}, merge=True)
    assert read_metrics(path) == {"a": 1, "b": 0.5, "c": 2.0, "d": None, "e": "x"}
    with pytest.raises(ValueError, match=r"metrics\['a'\] is Tensor, not a single number"):
        write_metrics(path, {"a": torch.ones(2)})
    assert read_metrics(path)["a"] == 1  # as it was
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": {"b": 1}}'])
def test_a_damaged_file_is_not_merged_with(tmp_path: Path, content: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"metrics\.json is not .*move it away and measure again"):
        write_metrics(path, {"a": 1}, merge=True)
    assert path.read_text() == content


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\udcff")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_print_table_shows_cells_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Title [b]", [["[red]x", 0.123456]], ["name", "value"])
    out = capsys.readouterr().out
    for text in ("Title [b]", "[red]x", "0.1235", "name"):
        assert text in out
    with pytest.raises(ValueError, match="has 1 cells for 2 columns"):
        print_table("t", [["a"]], ["b", "c"])
