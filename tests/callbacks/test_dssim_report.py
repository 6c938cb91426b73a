from __future__ import annotations

import math

import pytest
import torch

from callbacks import DSSIMReport
from lightning_app.desensitize import BlockDCT
from lightning_app.metrics import dssim, psnr, stateful
from tests.callbacks.tiny_run import LowerHalf, MakeTrainer, Open, TinyData, TinyModel


def test_figures_are_those_of_the_metrics(make_trainer: MakeTrainer) -> None:
    data = TinyData()
    trainer = make_trainer(DSSIMReport(images=6), epochs=1)
    trainer.fit(TinyModel(), datamodule=data)
    clean = data.raw[:6].float() / 255
    desensitized = clean.clone()
    desensitized[:, :, 16:] = 0
    found = trainer.callback_metrics
    assert found["privacy/dssim"].item() == pytest.approx(dssim(clean, desensitized).mean().item(), abs=1e-6)
    assert found["privacy/psnr"].item() == pytest.approx(psnr(clean, desensitized).mean().item(), rel=1e-5)
    # the lower half is (1,0,1) there and black here: the squared error is 2/3 on half of the pixels
    assert found["privacy/psnr"].item() == pytest.approx(10 * math.log10(3), rel=1e-5)
    assert found["privacy/mask_ratio"].item() == 0.5


@pytest.mark.parametrize(("moving", "times"), [(False, 1), (True, 3)])
def test_computed_anew_only_where_the_pixels_are_others(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, moving: bool, times: int
) -> None:
    calls = []

    def counted(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        calls.append(len(a))
        return dssim(a, b)

    monkeypatch.setattr(stateful, "dssim", counted)
    trainer = make_trainer(DSSIMReport(), epochs=3)
    trainer.fit(TinyModel(), datamodule=TinyData(LowerHalf(moving=moving)))
    assert calls == [8] * times
    assert "privacy/dssim" in trainer.callback_metrics


def test_in_validate_and_test_too(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(DSSIMReport())
    (found,) = trainer.validate(TinyModel(), datamodule=TinyData(), verbose=False)
    assert found["privacy/mask_ratio"] == 0.5
    (found,) = trainer.test(TinyModel(), datamodule=TinyData(), verbose=False)
    assert found["privacy/dssim"] > 0.1


def test_what_is_no_picture_is_measured_as_it_looks(make_trainer: MakeTrainer) -> None:
    data = TinyData(BlockDCT())
    trainer = make_trainer(DSSIMReport(), epochs=2)
    trainer.fit(TinyModel(), datamodule=data)
    seen = data.desensitizer.look(data.desensitized(data.raw)["image"])
    expected = dssim(data.raw.float() / 255, seen).mean().item()
    assert trainer.callback_metrics["privacy/dssim"].item() == pytest.approx(expected, abs=1e-6)


def test_nothing_hidden_gives_zero_infinity_and_no_mask_ratio(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(DSSIMReport(), epochs=1)
    trainer.fit(TinyModel(), datamodule=TinyData(Open()))
    assert trainer.callback_metrics["privacy/dssim"] == 0
    assert trainer.callback_metrics["privacy/psnr"] == math.inf
    assert "privacy/mask_ratio" not in trainer.callback_metrics


def test_bad_arguments(make_trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match="DSSIMReport: images=0: give at least 1"):
        DSSIMReport(images=0)
    with pytest.raises(ValueError, match="DSSIMReport needs a FaceDataModule"):
        make_trainer(DSSIMReport()).validate(TinyModel(), TinyData().val_dataloader(), verbose=False)
