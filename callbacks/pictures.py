"""The picture of a run: faces, what is left of them, and what the gate makes of it."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from callbacks.media import log_media, save_picture
from callbacks.place import steps_done
from callbacks.raw_faces import OnRawFaces, mean_mask_ratio
from callbacks.sharded import is_due
from lightning_app.desensitize import Desensitizer
from lightning_app.desensitize.dct import grey
from lightning_app.report import face_grid, gate_heatmap

_ALIKE = 0.9  # correlation of two images: what is so like a raw face, but for contrast and colour, is one


class Pictures(OnRawFaces):
    """Draw `faces.png` into the run folder and log it: a column per face, a row per way of looking at it.

    Rows: the raw face, the desensitized face (a representation as its `look` shows it), the gate at each insertion
    point (mean over its channels). A raw face is shown where all faces are drawn ones. Raw faces of real data are shown
    with `show_faces` alone, and then in the local file alone: loggers get a picture without them, and none where the
    data is not desensitized (design, 'Pictures'), or lies under masks of kind `free`, whose shape may draw the face.

    Args:
        images: how many faces; fewer where there are fewer.
        every_n_epochs: how often within `fit`; the last epoch always has one.
        show_faces: show raw faces of real data in the local file.

    Raises:
        ValueError: `images` or `every_n_epochs` is below 1.
    """

    def __init__(self, images: int = 6, every_n_epochs: int = 1, show_faces: bool = False) -> None:
        super().__init__(images)
        if every_n_epochs < 1:
            raise ValueError(f"Pictures: every_n_epochs={every_n_epochs}: give at least 1")
        self.every_n_epochs, self.show_faces = every_n_epochs, show_faces

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, when it is due."""
        if is_due(trainer, self.every_n_epochs):
            self._draw(trainer, pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw."""
        self._draw(trainer, pl_module)

    @torch.no_grad()
    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        if data is None:
            raise ValueError("Pictures needs a FaceDataModule: it owns the raw images and the desensitizer")
        if not trainer.is_global_zero:
            return
        raw = self.raw_faces(data, pl_module.device)
        if not len(raw):
            self.tell(
                "Pictures: a released set has no raw faces to draw beside what is left of them: skipped."
            )
            return
        desensitized = self.desensitized(data, raw)
        clean = raw.float() / 255

        rows: dict[str, Tensor] = {}
        seen = data.desensitizer.pictures(desensitized["image"], (raw.shape[2], raw.shape[3]))
        bare = _may_show_a_face(data.desensitizer) or _shows_a_raw_face(seen, clean, data.desensitizer)
        if data.drawn or not bare:
            rows[_called(data.desensitizer) + _share(desensitized)] = seen
        gates = _gates(trainer, pl_module, desensitized, (raw.shape[2], raw.shape[3]))
        if data.drawn or not data.desensitizer.may_show_hidden:  # a mask shows in its gates
            rows |= gates
        title = type(pl_module).__name__
        if trainer.state.fn == "fit":  # `validate` does not know how long the model was trained
            title += f" · epoch {trainer.current_epoch + 1}, step {steps_done(trainer)}"
        local = {("drawn face" if data.drawn else "raw face"): clean, **rows}
        public = local if data.drawn else rows
        if public:
            picture = face_grid(public, title=title, heat=gates)
            log_media(trainer, "pictures/faces", picture=picture, save_as="faces.png")
        if data.drawn:
            return
        if self.show_faces:
            picture = face_grid(local, title=title, heat=gates)
            save_picture(trainer, "faces.png", picture)
            self.tell("Pictures: faces.png shows raw faces: it stays here, loggers get one without them.")
        elif bare:
            self.tell(
                "Pictures: these faces are real and "
                + ("their masks may draw them" if data.desensitizer.may_show_hidden else "not desensitized")
                + ": not drawn (show_faces: true draws them into the local faces.png)."
            )


def _may_show_a_face(desensitizer: Desensitizer) -> bool:
    """Return whether nothing is hidden: a clean face, or channels without a key, which anybody turns back."""
    bare = not desensitizer.hides or not (desensitizer.is_image or desensitizer.keyed)
    return bare or desensitizer.may_show_hidden


def _shows_a_raw_face(seen: Tensor, clean: Tensor, desensitizer: Desensitizer) -> bool:
    """Return whether one of the images `[B,3,H,W]` is its raw face, whatever the desensitizer calls itself.

    A picture is where it went through unchanged; a mix, or the look of a representation, is where it differs by
    contrast and colour alone, or by little else.
    """
    found = bool((seen == clean).flatten(1).all(1).any())
    if desensitizer.is_image and desensitizer.mixes == 1:
        return found
    for make in (lambda x: x.mean(1), lambda x: grey(x)[:, 0]):
        a, b = (make(x).flatten(1) for x in (seen, clean))
        a, b = (F.normalize(x - x.mean(1, keepdim=True)) for x in (a, b))
        found |= bool(((a * b).sum(1) > _ALIKE).any())
    return found


def _called(desensitizer: Desensitizer) -> str:
    """Return the title of the row that shows what a desensitizer returns."""
    if desensitizer.is_image:
        return "desensitized"
    return f"desensitized:\n{desensitizer.out_channels} channels,\nas `look` shows them"


def _share(batch: Any) -> str:
    """Return the mean mask ratio of a batch as text, where it has masks."""
    hidden = mean_mask_ratio(batch)
    return "" if hidden is None else f"\n{hidden:.0%} hidden"


def _gates(
    trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, size: tuple[int, int]
) -> dict[str, Tensor]:
    """Colour the gates of a batch's masks: row name → `[B,3,H,W]`; empty for a model or a batch without."""
    gate = getattr(pl_module, "gate", None)
    if gate is None or batch["mask"] is None:
        return {}
    was_training = pl_module.training
    pl_module.eval()  # batch norm's running averages are the model's, not the picture's
    with trainer.precision_plugin.val_step_context():
        gates = gate(trainer.precision_plugin.convert_input(batch["mask"]))
    pl_module.train(was_training)
    rows = {}
    for point, values in gates.items():  # [M,C,h,w]
        _, channels, height, width = values.shape
        maps = torch.stack([gate_heatmap(one, size) for one in values])
        rows[f"gate at {point}\n{channels} × {height} × {width},\nmean of channels"] = maps[
            batch["mask_index"].cpu()
        ]
    return rows
