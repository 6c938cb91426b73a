"""Every switch of Lightning's Trainer, and every callback of its, does what it says or is refused in one line."""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import BatchSizeFinder, DeviceStatsMonitor, GradientAccumulationScheduler
from lightning.pytorch.callbacks import device_stats_monitor as stats
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.tuner.lr_finder import _LRFinder

import callbacks as ours
from callbacks.measured import KnowsItsKeys
from callbacks.options import _known
from lightning_app.runs.trainer_options import blamed, check_asked, check_made, total_steps
from tests.command_line import refused
from tests.small_run import STEPS, SmallRecogniser, data, write_small_config

DOCS = Path(__file__).parents[2] / "docs" / "trainer.md"
LIGHTNINGS = "lightning.pytorch.callbacks."
Metrics = dict[str, Any]


class Seen(L.Callback):
    """Keeps what a run saw: images of training and validation batches, rates, validations, and the trainer."""

    last: Seen

    def __init__(self) -> None:
        Seen.last = self
        self.images: list[tuple[int, list[int]]] = []  # epoch and numbers of each batch
        self.rates: list[float] = []
        self.validated: list[tuple[int, int]] = []  # global step, images
        self.frozen: list[bool] = []
        self.trainer: Any = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.trainer = trainer
        self.images.append((trainer.current_epoch, batch["index"].tolist()))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.frozen.append(not next(pl_module.parameters()).requires_grad)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self.validated.append((trainer.global_step, len(batch["image"])))


class Run:
    """One `fit` of one epoch of four steps, and what it left.

    Args:
        run: the command line.
        folder: where it is run.
    """

    def __init__(self, run: Callable[..., None], folder: Path) -> None:
        self._run, self.folder = run, folder
        self.run_dir = folder / "runs/small"

    def __call__(self, *callbacks: str | dict[str, Any], seen: bool = True, **trainer: Any) -> Metrics:
        """Run it; give metrics.json, empty where there is none."""
        more = {
            key: trainer.pop(key) for key in [*trainer] if key in ("ckpt_path", "overwrite", "data", "model")
        }
        path = write_small_config(self.folder, epochs=1)
        config = yaml.safe_load(path.read_text())
        watching = [{"class_path": c} if isinstance(c, str) else c for c in callbacks]
        own = [{"class_path": "tests.runs.test_trainer_options.Seen"}] if seen else []
        config["trainer"] |= {"callbacks": own + watching, "enable_model_summary": False} | trainer
        for part in ("data", "model"):
            config[part]["init_args"] |= more.pop(part, {})
        path.write_text(yaml.safe_dump(config))
        self._run("fit", "--config", path, *(f"--{key}={value}" for key, value in more.items()))
        metrics = self.run_dir / "metrics.json"
        return dict(json.loads(metrics.read_text())) if metrics.exists() else {}

    def files(self) -> set[str]:
        found = self.run_dir.rglob("*") if self.run_dir.exists() else []
        return {str(path.relative_to(self.run_dir)) for path in found if path.is_file()} - {".lock"}


@pytest.fixture
def fit(run_main: Callable[..., None], tmp_path: Path) -> Run:
    return Run(run_main, tmp_path)


def lightnings(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": LIGHTNINGS + name, "init_args": init_args}


def verification(**more: Any) -> dict[str, Any]:
    pairs = {
        "class_path": "datamodules.DrawnPairs",
        "init_args": {"size": 16, "identities": 4, "folds": 2, "pairs_per_fold": 8},
    }
    return {"class_path": "callbacks.LFWVerification", "init_args": {"reader": pairs, "bootstrap": 5, **more}}


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


@pytest.mark.parametrize("bar", ["TQDMProgressBar", "RichProgressBar"])
def test_a_bar_of_ones_own_takes_the_place_of_ours(bar: str, fit: Run) -> None:
    fit(LIGHTNINGS + bar, limit_train_batches=1)
    assert type(Seen.last.trainer.progress_bar_callback).__name__ == bar


@pytest.mark.parametrize("accumulated", [{0: 2, 2: 1}, {0: 1, 1: 3}, {0: 4}])
def test_a_schedule_spans_steps_that_accumulate_differently(
    accumulated: dict[int, int], tmp_path: Path
) -> None:
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, use_distributed_sampler=False,
        callbacks=[GradientAccumulationScheduler(accumulated), Seen()],
    )  # fmt: skip
    trainer.fit(SmallRecogniser(input_size=16, schedule="cosine"), datamodule=data())
    assert total_steps(trainer, "schedule=cosine") == trainer.global_step


# Lightning's callbacks


def early(key: str, **more: Any) -> dict[str, Any]:
    return lightnings("EarlyStopping", monitor=key, **more)


@pytest.mark.parametrize(
    ("callbacks", "options", "said"),
    [
        ([early("val/nothing")], {}, "monitors val/nothing, which this run never logs"),
        ([early("lfw/acuracy"), verification()], {}, "monitors lfw/acuracy"),
        ([early("lfw/accuracy")], {}, "monitors lfw/accuracy"),
        ([early("val/loss")], {"limit_val_batches": 0}, "monitors val/loss"),
        ([early("val/loss")], {"data": {"val_share": 0.0}}, "monitors val/loss"),
        ([lightnings("ModelCheckpoint", monitor="val/nothing")], {}, "ModelCheckpoint monitors val/nothing"),
        ([lightnings("ModelCheckpoint", monitor="lfw/accuracy"), verification(every_n_epochs=2)],
         {"max_epochs": 4}, "measured every 2"),
        ([early("lfw/accuracy"), verification(every_n_epochs=2)], {"max_epochs": 4}, "measured every 2"),
        ([LIGHTNINGS + "LearningRateMonitor"], {"logger": False}, "LearningRateMonitor"),
        ([LIGHTNINGS + "BatchSizeFinder"], {}, "BatchSizeFinder"),
    ],
)  # fmt: skip
def test_what_a_callback_cannot_do_is_said_before_training(
    callbacks: list[Any], options: dict[str, Any], said: str, fit: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, lambda: fit(*callbacks, seen=False, **options))
    assert said in line
    if "never logs" in line:
        assert "train/loss" in line
    assert not (fit.run_dir / "checkpoints/last.ckpt").exists()


class Keys(L.Callback):
    """Keeps what a fit logs, and what was known of that before."""

    known: ClassVar[set[str]] = set()
    logged_then: ClassVar[set[str]] = set()

    def logged(self) -> tuple[str, ...]:
        return ()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        found = _known(trainer, pl_module)
        assert found is not None, "every callback of ours says what it logs"
        Keys.known = found[0] | {f"{name}/*" for name in found[1]}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        Keys.logged_then = {*trainer.callback_metrics}


def test_callbacks_say_what_they_log(fit: Run) -> None:
    best = lightnings("ModelCheckpoint", monitor="val/balanced_accuracy", filename="best")
    own = ["callbacks.ClassificationReport", "callbacks.DSSIMReport", f"{__name__}.Keys"]
    fit(*own, verification(), best, seen=False)
    assert {"val/balanced_accuracy", "val/accuracy_low", "privacy/dssim", "lfw/accuracy"} <= Keys.logged_then
    assert not {
        key for key in Keys.logged_then if not any(fnmatchcase(key, pattern) for pattern in Keys.known)
    }
    assert "checkpoints/best.ckpt" in fit.files()


def test_each_callback_that_logs_says_what() -> None:
    logs = re.compile(r"log_measurements\(|pl_module\.log(_dict)?\(")
    spared = {
        "EpochRow",
        "LFWVerification",
    }  # the model's own keys again; known by its name and how often it is due
    for name in sorted({*ours.__all__} - spared):
        kind = getattr(ours, name)
        source = "".join(
            inspect.getsource(one) for one in kind.__mro__ if one.__module__.startswith("callbacks.")
        )
        if logs.search(source):
            assert issubclass(kind, KnowsItsKeys), f"{name} logs, and does not say which keys: add `logged`"


@pytest.mark.parametrize("limits", [{}, {"limit_train_batches": 2}])
def test_a_fit_says_what_it_trains_on(
    limits: dict[str, Any], fit: Run, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "faceveil"):
        fit(max_epochs=1, data={"global_batch_size": 7, "val_share": 0.0}, **limits)
    (said,) = [record.getMessage() for record in caplog.records if "Training on" in record.getMessage()]
    images = sum(len(numbers) for _, numbers in Seen.last.images)
    found = re.fullmatch(r"Training on (\d+) images of (\d+) people in batches of 7: (\d+) steps an epoch"
                         r"(?:, (\d+) images wait for the next)?\.", said)  # fmt: skip
    assert found is not None, said
    whole, _, steps, left = (int(one or 0) for one in found.groups())
    assert (steps, steps * 7, whole - left) == (len(Seen.last.images), images, images)


def test_monitors_that_are_met(fit: Run) -> None:
    best = lightnings(
        "ModelCheckpoint", monitor="lfw/accuracy", mode="max", every_n_epochs=2, filename="best"
    )
    lowest = lightnings("ModelCheckpoint", monitor="val/loss", filename="lowest")
    stop = early("val/loss", patience=50)
    maybe = early("lfw/nothing", strict=False)
    fit(
        best,
        lowest,
        stop,
        maybe,
        verification(every_n_epochs=2),
        seen=False,
        max_epochs=2,
        limit_train_batches=1,
    )
    assert {"checkpoints/best.ckpt", "checkpoints/lowest.ckpt", "checkpoints/last.ckpt"} <= fit.files()


def test_a_callback_that_fails_is_one_line_and_the_epoch_is_kept(
    fit: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, lambda: fit(early("val/nothing"), max_epochs=2))  # Seen may log anything
    assert "EarlyStopping failed" in line
    assert "val/loss" in line
    whole = [numbers for _, numbers in Seen.last.images]
    assert fit(max_epochs=2, ckpt_path="last")["run/steps"] == 2 * STEPS
    assert len(whole) == STEPS
    assert [epoch for epoch, _ in Seen.last.images] == [1] * STEPS  # nothing is trained again


def test_a_callback_that_lacks_a_package_is_one_line(
    fit: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "_PSUTIL_AVAILABLE", False)
    line = refused(capsys, lambda: fit(LIGHTNINGS + "DeviceStatsMonitor"))
    assert "DeviceStatsMonitor failed" in line
    assert "psutil" in line


def test_an_error_of_our_own_is_not_blamed_on_a_callback() -> None:
    class Broken(L.LightningModule):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            raise RuntimeError("of the model")

    for owner, name in (
        (Broken().training_step, None),
        (DeviceStatsMonitor()._get_and_log_device_stats, "DeviceStatsMonitor"),
    ):
        with pytest.raises((RuntimeError, AttributeError)) as raised:
            owner(None, None)  # type: ignore[arg-type]
        assert blamed(raised.value) == name


@pytest.mark.filterwarnings(
    "ignore:.*was called without a model", "ignore:.*there is no last checkpoint", "ignore:.*flops_per_batch"
)
def test_callbacks_that_watch_go_together(fit: Run) -> None:
    metrics = fit(
        LIGHTNINGS + "RichModelSummary",
        LIGHTNINGS + "LearningRateMonitor",
        lightnings("Timer", duration="01:00:00:00"),
        lightnings("OnExceptionCheckpoint", dirpath="kept"),
        lightnings("ThroughputMonitor", batch_size_fn="callbacks.clock.images_in"),
        lightnings("GradientAccumulationScheduler", scheduling={0: 2}),
        LIGHTNINGS + "EMAWeightAveraging",
        verification(),
        max_epochs=2,
    )
    assert metrics["run/steps"] == STEPS
    assert "lfw/accuracy" in metrics
    kept = torch.load(fit.run_dir / "checkpoints/last.ckpt", weights_only=True)
    own, averaged = kept["current_model_state"]["head.weight"], kept["state_dict"]["head.weight"]
    assert own.shape == averaged.shape
    assert not torch.equal(own, averaged)


def test_a_learning_rate_that_is_found_is_trained_with(fit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_LRFinder, "suggestion", lambda self, *args, **kwargs: 0.02)
    fit(lightnings("LearningRateFinder", num_training_steps=3), model={"schedule": "constant"})
    assert Seen.last.rates[-STEPS:] == [0.02] * STEPS
    kept = torch.load(fit.run_dir / "checkpoints/last.ckpt", weights_only=True)
    assert kept["hyper_parameters"]["lr"] == 0.02


@pytest.mark.filterwarnings("ignore:The provided params to be frozen")  # Lightning's, to the user
def test_a_backbone_rests_until_it_is_let_go(fit: Run) -> None:
    fit(lightnings("BackboneFinetuning", unfreeze_backbone_at_epoch=1), max_epochs=2)
    assert Seen.last.frozen == [True] * STEPS + [False] * STEPS


@pytest.mark.filterwarnings("ignore:(?s).*Unable to serialize instance")  # Lightning's, to the user
@pytest.mark.filterwarnings("ignore:.*SWA is currently only supported")  # Lightning's, to the user
def test_averaged_weights_are_those_that_are_kept(fit: Run) -> None:
    fit(lightnings("StochasticWeightAveraging", swa_lrs=0.05, swa_epoch_start=1), max_epochs=2)
    kept = torch.load(fit.run_dir / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    model = Seen.last.trainer.lightning_module
    assert torch.equal(kept["head.weight"], model.head.weight.detach())


@pytest.mark.filterwarnings("ignore:(?s).*Unable to serialize instance")  # Lightning's, to the user
def test_pruned_weights_are_kept_as_such(fit: Run) -> None:
    pruning = lightnings("ModelPruning", pruning_fn="l1_unstructured", amount=0.5)
    fit(pruning, model={"channels_last": False})
    kept = torch.load(fit.run_dir / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    zero = [float((kept[key] == 0).float().mean()) for key in kept if key.endswith("weight")]
    assert max(zero) > 0.3
