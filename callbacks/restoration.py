"""The picture of an attack in training: what it was given, what it makes of it, what was there."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from callbacks.media import log_media, save_picture
from callbacks.place import steps_done
from callbacks.raw_faces import OnRawFaces
from lightning_app.report import face_grid


class RestorationPictures(OnRawFaces):
    """Draw `restored.png` into the run folder: a column per held-out face; desensitized, restored, clean.

    A restored face may be as good as the raw one, so all of it is drawn for drawn faces alone. Of real people it
    is drawn with `show_faces` alone, and then into the local file alone, never for a logger (design,
    'Pictures').

    Args:
        images: how many faces; fewer where there are fewer.
        show_faces: draw the faces of real people, into the local file.

    Raises:
        ValueError: `images` is below 1.
    """

    def __init__(self, images: int = 6, show_faces: bool = False) -> None:
        super().__init__(images)
        self.show_faces = show_faces

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw."""
        if not trainer.sanity_checking:
            self._draw(trainer, pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw."""
        self._draw(trainer, pl_module)

    @torch.no_grad()
    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        restored: Any = getattr(pl_module, "restored", None)
        if data is None or restored is None:
            raise ValueError("RestorationPictures needs a FaceDataModule and an Inpainter")
        if not trainer.is_global_zero:
            return
        if not data.drawn and not self.show_faces:
            self.tell(
                "RestorationPictures: these faces are real: not drawn (show_faces: true draws them into the "
                "local restored.png)."
            )
            return
        raw = self.raw_faces(data, pl_module.device)
        was_training = pl_module.training
        pl_module.eval()
        with trainer.precision_plugin.val_step_context():
            found = {"reader": data.sampled(self.images)} if data.desensitizer.elsewhere else {}
            guess = restored(data.prepare(raw, draw_key=data.as_trained(len(raw)), **found))
        pl_module.train(was_training)
        released = self.desensitized(data, raw)["image"]
        rows = {
            "desensitized": data.desensitizer.pictures(released, tuple(raw.shape[2:])),
            "restored": guess,
            "clean": raw.float() / 255,
        }
        title = type(pl_module).__name__
        if trainer.state.fn == "fit":
            title += f" · epoch {trainer.current_epoch + 1}, step {steps_done(trainer)}"
        picture = face_grid(rows, title=title)
        if data.drawn:
            log_media(trainer, "pictures/restored", picture=picture, save_as="restored.png")
        else:
            save_picture(trainer, "restored.png", picture)
