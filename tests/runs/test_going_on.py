"""A schedule of the learning rate spans the steps that a run was to have: going on with others is refused, or said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch

from callbacks import TrainerOptions
from callbacks.going_on import check_limits, is_scheduled
from datamodules import FaceDataModule
from lightning_app.models import CGAN, AdversarialMasker, Inpainter, Linker
from lightning_app.models.schedule import Schedule
from lightning_app.runs.checkpoint_bounds import DATA_STATE
from tests import small_run
from tests.small_run import STEPS, Diary, SmallRecogniser, fit

LAST = Path("checkpoints/last.ckpt")
Change = Callable[..., None]


class Stop(L.Callback):
    """Ends a fit after its first epoch, as somebody does who presses Ctrl-C."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = True


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints after the first of four epochs, of a schedule each."""
    found = {}
    for schedule in ("one_cycle", "constant"):
        folder = tmp_path_factory.mktemp(schedule)
        fit(folder, None, Stop(), TrainerOptions(), schedule=schedule, max_epochs=4)
        found[schedule] = folder / LAST
    return found


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Change:
    """Have small_run's data made with other arguments."""
    made = small_run.data

    def to(**others: Any) -> None:
        def changed(*args: Any, **more: Any) -> FaceDataModule:
            data = made(*args, **more)
            for name, value in others.items():
                setattr(data, name, value)
            return data

        monkeypatch.setattr(small_run, "data", changed)

    return to


@pytest.mark.parametrize(
    ("batch", "options", "said"),
    [
        (2, {}, "36 optimiser steps, until now it was to have 16 (data.global_batch_size 4, here 2)"),
        (4, {"accumulate_grad_batches": 4}, "4 optimiser .* 16 (trainer.accumulate_grad_batches 1, here 4)"),
        (4, {"limit_train_batches": 1}, "4 optimiser .* 16 (trainer.limit_train_batches 1.0, here 1)"),
        (4, {"overfit_batches": 1}, "4 optimiser .* 16 (trainer.limit_train_batches 1.0, here 1; "
         "trainer.overfit_batches 0.0, here 1)"),
    ],
)  # fmt: skip
def test_other_steps_under_a_schedule_are_refused(
    batch: int, options: dict[str, Any], said: str, begun: dict[str, Path], tmp_path: Path, change: Change
) -> None:
    change(global_batch_size=batch)
    diary, pattern = Diary(), said.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(
        ValueError, match=f"would have {pattern}, and the rate of its schedule would jump: go on"
    ):
        fit(tmp_path, begun["one_cycle"], diary, TrainerOptions(), max_epochs=4, **options)
    assert not diary.events


@pytest.mark.parametrize(
    ("schedule", "changes", "options", "said"),
    [
        ("one_cycle", {}, {"max_epochs": 4}, ""),
        ("one_cycle", {}, {"max_epochs": 2}, "goes on to 2 epochs, until now it was to have 4"),
        ("one_cycle", {"global_batch_size": 9}, {"max_epochs": 2}, "goes on to 2 epochs, until now it was"),
        ("one_cycle", {}, {"max_epochs": 4, "max_steps": 6}, "6 optimiser steps, until now it was to have 16"),
        ("one_cycle", {"global_batch_size": 9, "other_data": "accept"}, {"max_epochs": 4},
         "8 optimiser steps, until now it was to have 16"),
        ("one_cycle", {"global_batch_size": 9}, {"max_epochs": 1}, ""),  # nothing is left to train
        ("constant", {"global_batch_size": 9}, {"max_epochs": 4}, ""),
    ],
)  # fmt: skip
def test_what_was_asked_for_is_said(
    schedule: Any, changes: dict[str, Any], options: dict[str, Any], said: str, begun: dict[str, Path],
    tmp_path: Path, change: Change, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    change(**changes)
    with caplog.at_level("INFO", "faceveil"):
        fit(tmp_path, begun[schedule], TrainerOptions(), schedule=schedule, **options)
    told = [line for line in caplog.messages if "rate jumps" in line]
    assert len(told) == bool(said)
    assert said in "".join(told)


def test_a_checkpoint_of_before_does_not_tell(begun: dict[str, Path], tmp_path: Path, change: Change) -> None:
    old = torch.load(begun["one_cycle"], weights_only=True)
    assert old.pop("planned_steps")["steps"] == 4 * STEPS
    torch.save(old, tmp_path / "old.ckpt")
    change(global_batch_size=9)
    fit(tmp_path, tmp_path / "old.ckpt", TrainerOptions(), max_epochs=2 + 2, max_steps=5)


def test_accumulation_stays_within_an_epoch() -> None:
    """The batches whose gradients wait for the others would be lost, or counted with other ones."""
    epochs = {"fit_loop": {"epoch_progress": {"current": {"processed": 1}}}}
    kept = {"limit_train_batches": "1.0", "overfit_batches": "0.0", "accumulate_grad_batches": "2"}
    checkpoint = {"limits": kept, DATA_STATE: {"batches_done": 3}, "loops": epochs}
    off: dict[str, Any] = {"logger": False, "accelerator": "cpu", "enable_checkpointing": False}
    with pytest.raises(
        ValueError, match=r"after 3 of its .*trainer\.accumulate_grad_batches 2, here 1: images"
    ):
        check_limits(L.Trainer(**off), checkpoint)
    check_limits(L.Trainer(accumulate_grad_batches=2, **off), checkpoint)
    changing = L.pytorch.callbacks.GradientAccumulationScheduler({0: 3, 1: 2})
    check_limits(L.Trainer(callbacks=[changing], **off), checkpoint)  # in this epoch it is the same
    check_limits(L.Trainer(**off), checkpoint | {DATA_STATE: {"batches_done": 0}})
    kept.pop("accumulate_grad_batches")  # of an earlier FaceVeil
    check_limits(L.Trainer(**off), checkpoint)


def test_a_schedule_is_the_checkpoints(
    begun: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    diary = Diary()
    fit(tmp_path, begun["constant"], diary, TrainerOptions(), schedule="one_cycle", max_epochs=4)
    assert "model.schedule=one_cycle is not used: the checkpoint goes on with constant" in caplog.text
    assert {event[-1] for event in diary.events if event[0] == "step"} == {0.1}
    kept = torch.load(tmp_path / LAST, weights_only=True)["hyper_parameters"]
    assert (kept["schedule"], kept["lr"]) == ("constant", 0.1)


def linker(decay: Schedule) -> Linker:
    made = Linker(backbone="resnet18", width=8, decay=decay, input_size=32)
    made.pixels = 32
    made._make(8)
    return made


@pytest.mark.parametrize(
    ("make", "key", "kept"),
    [
        (lambda value: SmallRecogniser(input_size=16, num_classes=2, schedule=value), "schedule", "cosine"),
        (lambda value: SmallRecogniser(input_size=16, num_classes=2, warmup=value), "warmup", 0.5),
        (lambda value: AdversarialMasker(backbone="resnet18", width=8, num_classes=2, input_size=32, schedule=value),
         "schedule", "cosine"),
        (lambda value: AdversarialMasker(backbone="resnet18", width=8, num_classes=2, input_size=32, warmup=value),
         "warmup", 0.5),
        (lambda value: Inpainter(width=8, decay=value), "decay", "cosine"),
        (lambda value: Inpainter(width=8, finetune=value, start_from=Path("x")), "finetune", True),
        (linker, "decay", "cosine"),
    ],
)  # fmt: skip
def test_what_is_said_not_to_be_used_is_not(
    make: Any, key: str, kept: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What the optimiser's state does not bring back has to be taken from the checkpoint's arguments."""
    began, goes_on = make(kept), make({"cosine": "constant", 0.5: 0.25, True: False}[kept])
    checkpoint = {"state_dict": began.state_dict(), "hyper_parameters": dict(began.hparams)}
    began.on_save_checkpoint(checkpoint)
    goes_on._trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"))
    goes_on.on_load_checkpoint(checkpoint)
    assert f"model.{key}=" in caplog.text
    assert f"is not used: the checkpoint goes on with {kept}" in caplog.text
    assert getattr(goes_on, key) == goes_on.hparams[key] == kept


def test_whose_rate_depends_on_the_number_of_steps() -> None:
    assert not is_scheduled(SmallRecogniser(input_size=16, schedule="constant"))
    assert is_scheduled(SmallRecogniser(input_size=16, schedule="constant", warmup=0.1))
    assert is_scheduled(SmallRecogniser(input_size=16, schedule="cosine"))
    assert is_scheduled(Inpainter(width=8, decay="cosine"))
    assert not is_scheduled(CGAN(width=4, input_size=32, depth=3))
