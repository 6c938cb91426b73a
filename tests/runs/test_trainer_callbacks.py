"""Every callback of Lightning's does what it says or is refused in one line, and ours say what they log."""

from __future__ import annotations

import inspect
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import DeviceStatsMonitor, GradientAccumulationScheduler
from lightning.pytorch.callbacks import device_stats_monitor as stats
from lightning.pytorch.tuner.lr_finder import _LRFinder

import callbacks as ours
from callbacks.measured import KnowsItsKeys
from callbacks.options import _known
from lightning_app.runs.trainer_options import blamed, total_steps
from tests.command_line import refused
from tests.runs.watched_fit import LIGHTNINGS, Run, Seen, lightnings, verification
from tests.small_run import STEPS, SmallRecogniser, data


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
@pytest.mark.slow
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
