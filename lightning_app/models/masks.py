"""Whether a network that looks at masks gets any from the data, of the size it takes."""

from __future__ import annotations

import logging

import torch

from datamodules import FaceDataModule

log = logging.getLogger("faceveil")


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
    method = type(data.desensitizer).__name__
    if mask is None:
        log.warning(
            "%s looks at masks, and %s returns none: it is a plain ResNet here; take ResNet.", model, method
        )
    elif mask.shape[-1] != data.input_size:
        raise ValueError(
            f"model: {model} looks at masks of the size of its input, {data.input_size} px, and those of {method} are "
            f"{mask.shape[-1]} px, as the images: take ResNet, or settings that keep the size"
        )
