"""A mask may be a drawing of what it hides: of real people it is drawn only where the user says so, and locally."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor

from callbacks import MaskPictures
from lightning_app.core.batch import Batch, DrawKey
from tests.callbacks.tiny_run import Recorder, TinyData, TinyModel


class Data(TinyData):
    def prepare(self, images: Tensor, draw_key: DrawKey | None = None) -> Batch:
        return self.desensitized(images, draw_key=draw_key)


class Masks(TinyModel):
    mean_mask = torch.rand(8, 8)

    def masks_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        assert not self.training
        return batch["image"], (batch["image"][:, :1] > 0.5).float()


def fit(
    tmp_path: Path, drawn: bool, show_faces: bool, epochs: int = 1
) -> tuple[bool, list[str], MaskPictures]:
    """Whether `masks.png` was drawn, and what the logger got."""
    recorder, pictures = Recorder(), MaskPictures(2, show_faces=show_faces)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, default_root_dir=str(tmp_path), logger=recorder, callbacks=[pictures],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(Masks(), datamodule=Data(drawn=drawn))
    assert (tmp_path / "mean_mask.png").is_file()
    return (tmp_path / "masks.png").is_file(), [key for key, _, _ in recorder.images], pictures


@pytest.mark.parametrize("show_faces", [False, True])
def test_drawn_faces_are_drawn_and_logged(tmp_path: Path, show_faces: bool) -> None:
    assert fit(tmp_path, True, show_faces)[:2] == (True, ["pictures/masks"])


def test_real_faces_are_not_drawn_unasked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="faceveil"):
        assert fit(tmp_path, False, False)[:2] == (False, [])
    assert "a mask may be a drawing of what it hides: not drawn" in caplog.text


def test_real_faces_stay_local(tmp_path: Path) -> None:
    assert fit(tmp_path, False, True)[:2] == (True, [])


def test_masks_of_earlier_epochs_stay_in_the_picture(tmp_path: Path) -> None:
    earlier = fit(tmp_path, True, False, epochs=3)[2]._earlier
    assert [name.split("\n")[0] for name in earlier] == [f"mask, epoch {n}" for n in (1, 2, 3)]


@pytest.mark.parametrize("setting", [{"images": 0}, {"every_n_epochs": 0}])
def test_what_it_refuses(setting: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="=0: give at least 1"):
        MaskPictures(**setting)  # type: ignore[arg-type]


def test_it_needs_a_masker(tmp_path: Path) -> None:
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, default_root_dir=str(tmp_path), logger=False, callbacks=[MaskPictures()],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    with pytest.raises(ValueError, match="MaskPictures needs a FaceDataModule and an AdversarialMasker"):
        trainer.fit(TinyModel(), datamodule=Data(drawn=True))
