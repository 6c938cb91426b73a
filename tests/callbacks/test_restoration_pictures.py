"""Restored faces of real people are drawn only where the user says so, and only locally."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor

from callbacks import RestorationPictures
from lightning_app.core.batch import Batch, DrawKey
from tests.callbacks.tiny_run import Recorder, TinyData, TinyModel


class Data(TinyData):
    def prepare(self, images: Tensor, draw_key: DrawKey | None = None) -> Batch:
        return self.desensitized(images, draw_key=draw_key)


class Restores(TinyModel):
    def restored(self, batch: Batch) -> Tensor:
        assert not self.training
        return torch.full_like(batch["image"], 0.5)


def fit(tmp_path: Path, drawn: bool, show_faces: bool) -> tuple[bool, list[str]]:
    """Whether `restored.png` was drawn, and what the logger got."""
    recorder = Recorder()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, default_root_dir=str(tmp_path), logger=recorder, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[RestorationPictures(2, show_faces)], num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(Restores(), datamodule=Data(drawn=drawn))
    return (tmp_path / "restored.png").is_file(), [key for key, _, _ in recorder.images]


@pytest.mark.parametrize("show_faces", [False, True])
def test_drawn_faces_are_drawn_and_logged(tmp_path: Path, show_faces: bool) -> None:
    assert fit(tmp_path, True, show_faces) == (True, ["pictures/restored"])


def test_real_faces_are_not_drawn_unasked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="faceveil"):
        assert fit(tmp_path, False, False) == (False, [])
    assert "these faces are real: not drawn" in caplog.text


def test_real_faces_stay_local(tmp_path: Path) -> None:
    assert fit(tmp_path, False, True) == (True, [])


def test_it_needs_a_face_at_least() -> None:
    with pytest.raises(ValueError, match="images=0"):
        RestorationPictures(0)
