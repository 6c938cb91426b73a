"""What networks that look at masks share: whether the data give any, of the size that they take."""

from __future__ import annotations

import logging

import torch

from datamodules import FaceDataModule
from lightning_app.models.base import Recogniser

log = logging.getLogger("faceveil")


class LooksAtMasks(Recogniser):
    """A recogniser whose network looks at the masks; arguments as for `Recogniser`."""

    def setup(self, stage: str) -> None:
        """Build the head as every recogniser does, and look at the masks that come, in `fit`.

        Raises:
            ValueError: see `Recogniser.setup` and `check_masks`.
        """
        super().setup(stage)
        if stage == "fit":
            check_masks(type(self).__name__, getattr(self.trainer, "datamodule", None))


def check_masks(model: str, data: object) -> None:
    """Refuse masks of another size than a representation, and say where a representation comes without masks.

    Args:
        model: name of the model's class.
        data: the trainer's DataModule; only a `FaceDataModule` is asked.

    Raises:
        ValueError: the masks have another size than what the network takes.
    """
    if not isinstance(data, FaceDataModule) or data.desensitizer.is_image:
        return
    black = torch.zeros(max(2, data.desensitizer.mixes), 3, data.size, data.size, dtype=torch.uint8)
    mask = data.desensitized(black, draw_key=data.as_trained(len(black)))["mask"]
    method = data.desensitizer.called
    if mask is None:
        log.warning(
            "%s looks at masks, and %s returns none: it is a plain ResNet here; take ResNet.", model, method
        )
    elif mask.shape[-1] != data.input_size:
        raise ValueError(
            f"model: {model} looks at masks of the size of its input, {data.input_size} px, and those of {method} are "
            f"{mask.shape[-1]} px, as the images: take ResNet, or settings that keep the size"
        )
