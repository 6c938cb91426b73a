"""The picture of a masker in training: which pixels it shows of a few faces, epoch after epoch."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from callbacks.media import log_media, save_picture
from callbacks.raw_faces import OnRawFaces
from callbacks.sharded import is_due
from lightning_app.report import face_grid, gate_heatmap

_MOST = 8  # earlier masks in one picture


class MaskPictures(OnRawFaces):
    """Draw `masks.png` into the run folder: a column per held-out face, a row per epoch for its mask.

    Below the masks: what they show, what they hide. A mask of a single image may be a line drawing of what it hides:
    it is taken for the face itself, and so is all of this picture. It is drawn of drawn faces alone; of real people
    with `show_faces` alone, and then into the local file, never for a logger. What is drawn of real people otherwise is
    the mean of the masks of K training faces, `mean_mask.png`, into the local file (docs/masks.md).

    Args:
        images: how many faces; fewer where there are fewer.
        every_n_epochs: how often within `fit`; the last epoch always has one.
        show_faces: draw the masks of real people's faces, into the local file.

    Raises:
        ValueError: `images` or `every_n_epochs` is below 1.
    """

    def __init__(self, images: int = 6, every_n_epochs: int = 1, show_faces: bool = False) -> None:
        super().__init__(images)
        if every_n_epochs < 1:
            raise ValueError(f"MaskPictures: every_n_epochs={every_n_epochs}: give at least 1")
        self.every_n_epochs, self.show_faces = every_n_epochs, show_faces
        self._earlier: dict[str, Tensor] = {}  # in memory alone: a mask may give a face away

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, when it is due."""
        if not trainer.sanity_checking and is_due(trainer, self.every_n_epochs):
            self._draw(trainer, pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw."""
        self._draw(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the mean mask."""
        mean: Tensor | None = getattr(pl_module, "mean_mask", None)
        if mean is None or not trainer.is_global_zero:
            return
        size = (int(mean.shape[0]), int(mean.shape[1]))
        heat = gate_heatmap(mean[None], size)[None]
        save_picture(trainer, "mean_mask.png", face_grid({"mean soft mask": heat}, heat={"mean soft mask"}))

    @torch.no_grad()
    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        masks_of: Any = getattr(pl_module, "masks_of", None)
        if data is None or masks_of is None:
            raise ValueError("MaskPictures needs a FaceDataModule and an AdversarialMasker")
        if not trainer.is_global_zero:
            return
        if not data.drawn and not self.show_faces:
            self.tell(
                "MaskPictures: these faces are real, and a mask may be a drawing of what it hides: not drawn "
                "(show_faces: true draws them into the local masks.png)."
            )
            return
        raw = self.raw_faces(data, pl_module.device)
        if not len(raw):
            self.tell("MaskPictures: a released set has no raw faces to make masks of: skipped.")
            return
        was_training = pl_module.training
        pl_module.eval()
        with trainer.precision_plugin.val_step_context():
            image, mask = masks_of(data.prepare(raw))
        pl_module.train(was_training)
        now = f"mask, epoch {trainer.current_epoch + 1}" if trainer.state.fn == "fit" else "mask"
        self._earlier[f"{now}\n{float(1 - mask.mean()):.0%} hidden"] = mask.cpu()
        for name in list(self._earlier)[:-_MOST]:
            del self._earlier[name]
        rows = {"drawn face" if data.drawn else "raw face": image, **self._earlier}
        rows |= {"shown": image * mask, "hidden": image * (1 - mask)}
        picture = face_grid({name: one.cpu() for name, one in rows.items()}, title=type(pl_module).__name__)
        if data.drawn:
            log_media(trainer, "pictures/masks", picture=picture, save_as="masks.png")
        else:
            save_picture(trainer, "masks.png", picture)
