from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks import FiniteLoss, RunCheckpoint, finite
from callbacks.finite import NonFiniteLoss
from datamodules.sampler import EpochBatchSampler
from lightning_app.core.batch import Batch
from lightning_app.models import ResNet
from tests.callbacks.tiny_run import MakeTrainer, TinyData, TinyModel
from tests.command_line import RunMain, refused, write_config
from tests.models.test_inpainter import write as write_inpainter


class Numbered(TinyData):
    """Four batches, of images 0-3, 4-7, 8-11 and 12-15."""

    def train_dataloader(self) -> DataLoader[Any]:
        batches = [{"image": self.raw[:4].float(), "index": torch.arange(4 * b, 4 * b + 4)} for b in range(4)]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


class Spoilt(TinyModel):
    """Has a loss that is no number at one step, and perhaps an infinite gradient at another."""

    def __init__(self, step: int, value: float = math.nan, gradient_at: int = -1) -> None:
        super().__init__()
        self.step, self.value, self.gradient_at = step, value, gradient_at
        self.seen: list[float] = []
        self.weight.register_hook(self._gradient)

    def _gradient(self, gradient: Tensor) -> Tensor:
        return gradient / 0 if self.trainer.global_step == self.gradient_at else gradient

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen.append(self.weight.item())
        loss = super().training_step(batch, batch_idx)
        return loss * self.value if self.global_step == self.step else loss


class ResNetSpoilt(ResNet):
    """A ResNet with a loss that is no number at one step."""

    def __init__(self, at: int = 4, **settings: Any) -> None:
        super().__init__(**settings)
        self.at = at

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * math.inf if self.global_step == self.at else loss


class Late(finite._Reading):
    """A loss that arrives two steps later, as one of a GPU may."""

    def __init__(self, loss: Tensor) -> None:
        super().__init__(loss)
        self.asked = 0

    def ready(self) -> bool:
        self.asked += 1
        return self.asked > 2


def stopped(trainer: L.Trainer, model: L.LightningModule) -> str:
    with pytest.raises(NonFiniteLoss) as error:
        trainer.fit(model, datamodule=Numbered())
    assert "\n" not in str(error.value)
    return str(error.value)


def read(trainer: L.Trainer, name: str) -> dict[str, Any]:
    path = Path(trainer.default_root_dir) / "checkpoints" / name
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_step_images_and_a_checkpoint(make_trainer: MakeTrainer, value: float) -> None:
    trainer = make_trainer(FiniteLoss(), RunCheckpoint(), epochs=3)
    model = Spoilt(6, value)
    message = stopped(trainer, model)
    folder = Path(trainer.default_root_dir) / "checkpoints"
    assert message.startswith(
        f"the loss is {value} at step 6 of epoch 1 (counted from 0; rank 0, lr 0.1), images 8, 9, 10, 11. Weights and "
        f"batch are in {folder / 'nonfinite.ckpt'}. last.ckpt is of before it"
    )
    assert "--ckpt_path last" in message
    after = read(trainer, "nonfinite.ckpt")
    description = after["nonfinite"]
    assert description.pop("loss") == pytest.approx(value, nan_ok=True)
    assert description == {"step": 6, "epoch": 1, "rank": 0, "lr": 0.1, "index": [8, 9, 10, 11]}
    assert after["state_dict"]["weight"] == model.seen[6]  # that made the loss, and no later one
    assert math.isfinite(model.seen[6])
    before = read(trainer, "last.ckpt")
    assert (before["global_step"], before["state_dict"]["weight"]) == (4, model.seen[4])


def test_a_loss_that_arrives_late_spoils_no_checkpoint(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite, "_Reading", Late)
    monkeypatch.setattr(FiniteLoss, "on_before_backward", L.Callback.on_before_backward)  # as on a GPU
    model = Spoilt(5)
    message = stopped(make_trainer(FiniteLoss(), epochs=3), model)
    assert message.startswith(
        "the loss is nan at step 5 of epoch 1 (counted from 0; rank 0, lr 0.1), images 4, 5, 6, 7."
    )
    assert "No checkpoint was written before it" in message
    assert len(model.seen) == 8  # two steps more

    trainer = make_trainer(FiniteLoss(), RunCheckpoint(every_n_steps=1), epochs=3)
    model = Spoilt(5)
    assert "at step 5 of epoch 1" in stopped(trainer, model)
    assert len(model.seen) == 6  # the checkpoint waited for it
    before = read(trainer, "last.ckpt")
    assert (before["global_step"], before["state_dict"]["weight"]) == (5, model.seen[5])

    model = Spoilt(11)  # the very last
    assert "at step 11 of epoch 2" in stopped(make_trainer(FiniteLoss(), epochs=3), model)


def test_weights_that_are_not_finite_are_not_saved(make_trainer: MakeTrainer) -> None:
    # as on a rank whose own loss is finite still when another's has spoilt the gradients of both
    trainer = make_trainer(FiniteLoss(), RunCheckpoint(every_n_steps=1), epochs=3)
    message = stopped(trainer, Spoilt(-1, gradient_at=5))
    assert message.startswith(
        "the weights are not finite after 6 steps (rank 0): no checkpoint is written. last.ckpt"
    )
    before = read(trainer, "last.ckpt")
    assert before["global_step"] == 5
    assert before["state_dict"]["weight"].isfinite()


def test_gradients_that_the_scaler_skips_do_not_end_a_run(make_trainer: MakeTrainer) -> None:
    def trainer(scale: float) -> L.Trainer:
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        precision = MixedPrecision("16-mixed", "cpu", scaler)
        return make_trainer(FiniteLoss(), epochs=2, plugins=[precision])

    model = Spoilt(-1, gradient_at=2)
    trainer(2.0**10).fit(model, datamodule=Numbered())
    assert model.seen[3] == model.seen[2] != model.seen[4]  # one step skipped
    model = Spoilt(-1)
    trainer(3e38).fit(model, datamodule=Numbered())
    assert math.isfinite(model.seen[-1])  # gradients overflow until the scale has come down
    model = Spoilt(3)
    assert "nan at step 3 of epoch 0 (counted from 0; rank 0, lr 0.1), images 12, 13, 14, 15." in stopped(
        trainer(2.0**10), model
    )
    assert model.weight.isfinite()  # the scaler skipped it


def test_another_rank_writes_its_own(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(FiniteLoss())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(trainer.strategy), "global_rank", property(lambda self: 1), raising=False)
        message = stopped(trainer, Spoilt(1))
    assert "rank 1, lr" in message
    assert read(trainer, "nonfinite.rank1.ckpt")["nonfinite"]["index"] == [4, 5, 6, 7]


def test_a_folder_that_cannot_be_written_hides_nothing(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(FiniteLoss())
    Path(trainer.default_root_dir).mkdir()
    (Path(trainer.default_root_dir) / "checkpoints").write_text("in the way")
    message = stopped(trainer, Spoilt(1))
    assert "at step 1 of epoch 0" in message
    assert re.search(
        r"images 4, 5, 6, 7\. \S+/nonfinite\.ckpt could not be written \(.*(exist|directory)", message
    )


def test_many_images_are_cut_in_the_message_alone(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(FiniteLoss())
    batch = {"image": torch.zeros(40, 3, 8, 8), "index": torch.arange(100, 140)}
    with pytest.raises(NonFiniteLoss, match=r"images 100, 101, .*, 131 and 8 more\. Weights"):
        trainer.fit(Spoilt(0), DataLoader([batch], batch_size=None))  # type: ignore[arg-type]
    assert read(trainer, "nonfinite.ckpt")["nonfinite"]["index"] == list(range(100, 140))


def test_a_run_ends_with_one_line_and_goes_on(
    tmp_path: Path, run_main: RunMain, drawn_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = {"accelerator": "cpu", "max_epochs": 2, "log_every_n_steps": 1}
    config = write_config(tmp_path / "spoilt.yaml", drawn_root, trainer=trainer)
    spoilt = config.read_text().replace(
        "lightning_app.models.ResNet", "tests.callbacks.test_finite.ResNetSpoilt"
    )
    config.write_text(spoilt)
    arguments = ("fit", "--config", config, "--data.init_args.val_share", 0)
    line = refused(capsys, lambda: run_main(*arguments))
    order = EpochBatchSampler(48, 16, seed=0)
    order.set_epoch(1)
    images = list(order)[1]  # step 4: the second of the three batches of epoch 1
    assert line.startswith("error: the loss is inf at step 4 of epoch 1 (counted from 0; rank 0, lr ")
    assert (
        f"images {', '.join(map(str, images))}. Weights and batch are in runs/spoilt/checkpoints/nonfinite.ckpt"
        in line
    )
    kept = torch.load("runs/spoilt/checkpoints/nonfinite.ckpt", weights_only=True)
    assert kept["nonfinite"]["index"] == images
    before = torch.load("runs/spoilt/checkpoints/last.ckpt", weights_only=True)
    assert before["global_step"] == 3
    for state in (kept["state_dict"], before["state_dict"]):
        assert all(value.isfinite().all() for value in state.values())
    assert not Path("runs/spoilt/metrics.json").exists()
    # the way on that the message names
    assert "--ckpt_path last and --trainer.gradient_clip_val 1" in line
    run_main(*arguments, "--ckpt_path", "last", "--trainer.gradient_clip_val", 1, "--model.init_args.at", 99)
    assert torch.load("runs/spoilt/checkpoints/last.ckpt", weights_only=True)["global_step"] == 6


def test_an_attacker_that_diverges_is_stopped(
    tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_inpainter(tmp_path / "rfr.yaml", learning_rate=1e30)
    line = refused(capsys, lambda: run_main("fit", "--config", config))
    assert re.search(r"the loss is (nan|inf) at step \d+ of epoch \d+ \(", line)
    assert "lower --model.learning_rate" in line
    kept = torch.load("runs/rfr/checkpoints/nonfinite.ckpt", weights_only=True)
    assert kept["nonfinite"]["index"]
