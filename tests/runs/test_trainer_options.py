"""Every switch of Lightning's Trainer does what it says or is refused in one line."""

from __future__ import annotations

import inspect
import logging
import re
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from lightning_app.runs.trainer_options import check_asked, check_made
from tests.command_line import refused
from tests.runs.watched_fit import Run, Seen, verification
from tests.small_run import STEPS

DOCS = Path(__file__).parents[2] / "docs" / "trainer.md"


def test_every_option_is_in_the_table() -> None:
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    names = {
        word.strip("` ") for line in lines if line.startswith("| `") for word in line.split("|")[1].split(",")
    }
    assert {*inspect.signature(L.Trainer.__init__).parameters} - {"self"} <= names
    callbacks = {name for name in L.pytorch.callbacks.__all__ if name not in ("Callback", "Checkpoint")}
    assert callbacks <= names | {"BaseFinetuning", "BasePredictionWriter", "LambdaCallback", "ProgressBar"}


# refused: what would be passed over in silence, or undo what a run promises


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"default_root_dir": "elsewhere"}, r"default_root_dir=elsewhere.*--runs and --name"),
        ({"model_registry": "mine"}, r"model_registry=mine.*run folder"),
        ({"use_distributed_sampler": True}, r"use_distributed_sampler=True.*DataModule deals"),
        ({"accumulate_grad_batches": 0}, r"accumulate_grad_batches=0: give a number above 0"),
        ({"accumulate_grad_batches": -1}, r"accumulate_grad_batches=-1: give"),
        ({"check_val_every_n_epoch": 0}, r"check_val_every_n_epoch=0: give"),
        ({"val_check_interval": 0}, r"val_check_interval=0: give"),
        ({"val_check_interval": -0.5}, r"val_check_interval=-0.5: give"),
        ({"gradient_clip_val": -1.0}, r"gradient_clip_val=-1.0: give"),
        ({"val_check_interval": float("nan")}, r"val_check_interval=nan: give"),
        ({"min_epochs": 5, "max_epochs": 2}, r"min_epochs=5 and max_epochs=2: the run ends at the latter"),
        ({"min_steps": 9, "max_steps": 8}, r"min_steps=9 and max_steps=8"),
        ({"min_steps": -3}, r"min_steps=-3: give 0 or more, or leave it out"),
        ({"min_epochs": -1}, r"min_epochs=-1: give 0 or more"),
        ({"num_sanity_val_steps": -2}, r"num_sanity_val_steps=-2: give -1 or more"),
        ({"log_every_n_steps": -1}, r"log_every_n_steps=-1: give 0 or more"),
    ],
)
def test_arguments_that_would_be_passed_over_are_refused(asked: dict[str, Any], said: str) -> None:
    check_asked({"default_root_dir": None, "model_registry": None, "use_distributed_sampler": False}, True)
    check_asked({"use_distributed_sampler": True}, deals_images=False)
    check_asked({"val_check_interval": 0.5, "check_val_every_n_epoch": None, "gradient_clip_val": 0}, True)
    check_asked({"min_epochs": 2, "max_epochs": 2, "num_sanity_val_steps": -1, "log_every_n_steps": 0}, True)
    check_asked({"min_epochs": 2, "max_epochs": -1, "min_steps": None, "max_steps": -1}, True)
    with pytest.raises(ValueError, match=said):
        check_asked(asked, deals_images=True)


def test_null_settings_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from main import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "no.yaml").write_text("trainer: null\n")
    line = refused(capsys, lambda: main(["fit", "--config", "demo.yaml", "--config", "no.yaml"]))
    assert "trainer: null; give its settings, or leave it out" in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strategy": "ddp_spawn", "devices": 2}, r"trainer.strategy: DDPStrategy.*take ddp"),
        ({"strategy": "ddp_fork", "devices": 2}, r"trainer.strategy: DDPStrategy.*take ddp"),
        ({"plugins": [AsyncCheckpointIO()]}, r"trainer.plugins=AsyncCheckpointIO"),
        ({"callbacks": [BatchSizeFinder()]}, r"BatchSizeFinder.*global_batch_size"),
    ],
)
def test_what_a_run_cannot_go_with_is_refused(options: dict[str, Any], said: str) -> None:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options)
    with pytest.raises(ValueError, match=said):
        check_made(trainer)
    check_made(L.Trainer(accelerator="cpu", logger=False, strategy="ddp", devices=2))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"devices": -1}, "trainer: `devices`"),
        ({"precision": "transformer-engine"}, "transformer_engine"),
        ({"gradient_clip_algorithm": "none"}, "gradient_clip_algorithm"),
        ({"val_check_interval": 5}, "`val_check_interval` (5)"),
        ({"max_epochs": -1}, "trainer.max_epochs=-1 without max_steps"),
        ({"max_epochs": None, "max_time": "00:01:00:00"}, "trainer.max_epochs=-1 without max_steps"),
        ({"default_root_dir": "elsewhere"}, "trainer.default_root_dir"),
    ],
)
def test_a_value_that_does_not_go_is_one_line(
    options: dict[str, Any], said: str, fit: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, lambda: fit(**options))
    assert "checkpoints/last.ckpt" not in fit.files()


# honoured: how much of the data


def test_to_overfit_is_to_see_the_same_batches_again(fit: Run) -> None:
    fit(overfit_batches=2, max_epochs=3, model={"schedule": "constant"})
    seen = [numbers for _, numbers in Seen.last.images]
    assert len(seen) == 6
    assert seen[:2] == seen[2:4] == seen[4:]
    assert seen[0] != seen[1]


@pytest.mark.parametrize(("limit", "steps"), [(2, 2), (0.75, 3)])
def test_part_of_an_epoch(limit: float, steps: int, fit: Run) -> None:
    metrics = fit(limit_train_batches=limit, max_epochs=2)
    assert metrics["run/steps"] == 2 * steps
    assert Seen.last.rates[-1] < 0.1 * 0.1  # the schedule spans the steps there are
    first, second = ([numbers for epoch, numbers in Seen.last.images if epoch == at] for at in (0, 1))
    assert first != second


@pytest.mark.parametrize(("limit", "images"), [(1, 4), (0.5, 3), (0.34, 2), (1.0, 6)])
def test_part_of_the_held_out_images(limit: float, images: int, fit: Run) -> None:
    fit(limit_train_batches=1, limit_val_batches=limit)
    assert sum(count for _, count in Seen.last.validated) == images


def test_a_share_of_no_held_out_images_is_no_error(fit: Run) -> None:
    metrics = fit(verification(), limit_train_batches=1, limit_val_batches=0.1, data={"val_share": 0.0})
    assert "lfw/accuracy" in metrics
    assert "val/loss" not in metrics


def test_without_validation_one_line_says_so(fit: Run, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "faceveil"):
        metrics = fit(verification(), limit_train_batches=1, limit_val_batches=0)
    assert "LFWVerification measures nothing" in caplog.text
    assert metrics["run/steps"] == 1
    assert not [key for key in metrics if key.startswith(("val/", "lfw/"))]


def test_a_trial_run_leaves_nothing_and_touches_nothing(fit: Run) -> None:
    pictures = {"class_path": "callbacks.Pictures", "init_args": {"images": 2}}
    assert not fit(verification(), pictures, fast_dev_run=2)
    assert not fit.run_dir.exists()
    fit(limit_train_batches=1)
    before = {name: (fit.run_dir / name).read_bytes() for name in fit.files()}
    fit(verification(), pictures, fast_dev_run=True, overwrite=True)
    assert before == {name: (fit.run_dir / name).read_bytes() for name in fit.files()}


@pytest.mark.parametrize(
    ("command", "limit"), [("validate", "val"), ("test", "test"), ("predict", "predict")]
)
def test_no_batches_are_nothing_to_do(command: str, limit: str) -> None:
    option = f"limit_{limit}_batches"
    with pytest.raises(ValueError, match=f"trainer.{option}=0: nothing is left to {command}; give more"):
        check_asked({option: 0}, True, command)
    check_asked({option: 0}, True, "fit")
    check_asked({option: 1, "limit_train_batches": 0}, True, command)


def test_the_rest_of_an_epoch_is_that_of_the_epoch(fit: Run, capsys: pytest.CaptureFixture[str]) -> None:
    fit(max_steps=2)
    for option, value in (("limit_train_batches", 1), ("overfit_batches", 2)):
        said = refused(capsys, lambda option=option, value=value: fit(ckpt_path="last", **{option: value}))  # type: ignore[misc]
        assert "in the midst of an epoch, after 2 of its batches, and trainer." in said
        assert f"trainer.{option} " in said
        assert "images would be shown twice or not at all" in said
    assert fit(ckpt_path="last")["run/steps"] == 4


@pytest.mark.parametrize(
    "nothing",
    [{"max_epochs": 0, "max_time": "00:01:00:00"}, {"limit_train_batches": 0}, {"max_time": "00:00:00:00"}],
)
def test_nothing_trained_is_said(nothing: dict[str, Any], fit: Run, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "faceveil"):
        assert fit(**nothing, seen=True)["run/steps"] == 0
    (key, value), *_ = nothing.items()
    assert "Nothing was trained" in caplog.text
    assert ("max_time is over" in caplog.text) == (value == "00:00:00:00")
    assert ("and its max_time is over" if key == "max_time" else f"{key}={value}") in caplog.text


# honoured: how long, and when to validate. The last figures are those of the last weights


@pytest.mark.parametrize(
    ("options", "validated", "steps"),
    [
        ({"max_epochs": 3, "check_val_every_n_epoch": 2}, [8, 12], 12),
        ({"check_val_every_n_epoch": 5}, [4], 4),
        ({"val_check_interval": 0.5}, [2, 4], 4),
        ({"val_check_interval": 3}, [3, 4], 4),
        ({"max_epochs": 2, "val_check_interval": 3, "check_val_every_n_epoch": None}, [3, 6, 8], 8),
        ({"val_check_interval": "01:00:00:00"}, [4], 4),
        ({"max_epochs": -1, "max_steps": 6}, [4, 6], 6),
        ({"max_epochs": 9, "max_time": "00:00:00:00", "min_steps": 6}, [4, 6], 6),
        ({"max_epochs": 9, "max_time": "00:00:00:00", "min_epochs": 2}, [4, 8], 8),
        ({"accumulate_grad_batches": 3, "max_epochs": 2}, [2, 4], 4),
    ],
)
def test_when_it_ends_and_validates(
    options: dict[str, Any], validated: list[int], steps: int, fit: Run
) -> None:
    metrics = fit(**options)
    assert metrics["run/steps"] == steps
    assert sorted({step for step, _ in Seen.last.validated}) == validated
    assert "val/loss" in metrics
    trainer = Seen.last.trainer
    assert trainer.check_val_every_n_epoch == options.get("check_val_every_n_epoch", 1)


def test_a_sanity_check_verifies_nothing(fit: Run) -> None:
    metrics = fit(verification(), num_sanity_val_steps=1, max_steps=1)
    assert {step for step, _ in Seen.last.validated} == {0, 1}
    assert "lfw/accuracy" in metrics


# honoured: what is kept and shown, and how it computes


def test_what_is_switched_off_is_not_there(fit: Run, capsys: pytest.CaptureFixture[str]) -> None:
    fit(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    assert fit.files() == {"config.yaml", "metrics.fit.json", "metrics.json", "state.json"}
    assert "Epoch 1" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*You are trying to `self.log")  # Lightning's, to the user
def test_barebones_trains_and_keeps_nothing_but_the_figures(fit: Run) -> None:
    metrics = fit(barebones=True, log_every_n_steps=None, enable_model_summary=None)
    assert metrics["run/steps"] == STEPS
    assert fit.files() == {"config.yaml", "metrics.fit.json", "metrics.json", "state.json"}


def test_how_it_computes(fit: Run) -> None:
    metrics = fit(
        precision="64-true", gradient_clip_val=1e-9, gradient_clip_algorithm="value", inference_mode=False,
        detect_anomaly=True, profiler="simple", benchmark=False, sync_batchnorm=True, log_every_n_steps=2,
        reload_dataloaders_every_n_epochs=1, enable_autolog_hparams=False, max_epochs=2, logger=True,
        num_nodes=1, devices=1, strategy="auto", accelerator="cpu",
    )  # fmt: skip
    trainer = Seen.last.trainer
    assert next(trainer.lightning_module.parameters()).dtype == torch.float64
    assert "run_training_epoch" in trainer.profiler.recorded_durations
    assert "hparams.yaml" not in fit.files()
    rows = (fit.run_dir / "metrics.csv").read_text().splitlines()
    assert sum("time/images_per_s" in row for row in rows) == 1  # the head
    assert metrics["run/steps"] == 2 * STEPS
    clipped = [numbers for _, numbers in Seen.last.images]
    weights = dict(torch.load(fit.run_dir / "checkpoints/last.ckpt", weights_only=True)["state_dict"])
    fit(max_epochs=2, overwrite=True)
    assert clipped == [
        numbers for _, numbers in Seen.last.images
    ]  # loaders made anew begin where they should
    free = dict(torch.load(fit.run_dir / "checkpoints/last.ckpt", weights_only=True)["state_dict"])
    assert not torch.allclose(weights["head.weight"].float(), free["head.weight"])


@pytest.mark.parametrize("limits", [{}, {"limit_train_batches": 2}])
def test_a_fit_says_what_it_trains_on(
    limits: dict[str, Any], fit: Run, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "faceveil"):
        fit(max_epochs=1, data={"global_batch_size": 7, "val_share": 0.0}, **limits)
    (said,) = [record.getMessage() for record in caplog.records if "Training on" in record.getMessage()]
    images = sum(len(numbers) for _, numbers in Seen.last.images)
    found = re.fullmatch(r"Training on (\d+) images of (\d+) people in batches of 7: (\d+) steps an epoch"
                         r"(?:, (\d+) images are left for the next)?\.", said)  # fmt: skip
    assert found is not None, said
    whole, _, steps, left = (int(one or 0) for one in found.groups())
    assert (steps, steps * 7, whole - left) == (len(Seen.last.images), images, images)
