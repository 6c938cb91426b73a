"""A recogniser that FaceVeil trained, as a judge."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lightning_app.core.normalise import normalised
from lightning_app.distributed.precision import Precision, autocast
from lightning_app.evaluation.judges.base import Judge
from lightning_app.models.base import Recogniser
from lightning_app.models.checkpoints import read_recogniser


class RecogniserJudge(Judge):
    """Embed faces with a trained recogniser; one with gates is told which pixels are hidden.

    Args:
        checkpoint: a `.ckpt`, a `.safetensors` that `export` wrote, or a run's folder.
        mean: subtracted from every channel, on [0,1] pixels, as in its training.
        std: what every channel is divided by then.
        precision: `bf16-mixed` and `16-mixed` embed under autocast, as `fit` does.
        channels: how many channels the images have that it takes as released, not mixed: a representation's, or 3 of a
            method that mixes pictures; None for all pictures that are seen.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is no recogniser's, is not one for pictures, or was trained on pixels normalised otherwise.
    """

    def __init__(
        self, checkpoint: str | Path, mean: float = 0.5, std: float = 0.5, precision: Precision = "32-true",
        channels: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.facts = read_recogniser(checkpoint)
        self.of_released = channels is not None
        if self.facts.in_channels != (channels or 3):
            raise ValueError(
                f"checkpoint {self.facts.path}: a recogniser for {self.facts.in_channels} channels of "
                f"{self.facts.input_size} px; a judge looks at pictures, which have 3: give one trained on such"
            )
        self.facts.check_normalised(mean, std)
        self.input_size = self.facts.input_size
        self.mean, self.std, self.precision = mean, std, precision

    def embed(self, images: Tensor) -> Tensor:
        """Embed clean or restored faces, see `Judge.embed`."""
        return self.embed_masked(images, None, None)

    def embed_masked(self, images: Tensor, mask: Tensor | None, mask_index: Tensor | None) -> Tensor:
        """Embed faces under masks, see `Judge.embed_masked`."""
        return embed_pixels(self.model, images, mask, mask_index, self.mean, self.std, self.precision)

    def check_size(self, size: int) -> None:
        """Refuse images of another size than those it was trained on: enlarged, they would make it look weak."""
        if self.input_size != size:
            channels = self.facts.in_channels
            raise ValueError(
                f"checkpoint {self.facts.path}: a recogniser for {channels} channels of {self.input_size} px; these "
                f"images have {channels} of {size} px: give one trained on such"
            )

    def describe(self) -> dict[str, object]:
        """Return the recogniser's class and the start of its file's hash."""
        return {"judge": self.facts.model, "checkpoint": self.facts.sha256[:12]}

    @property
    def description(self) -> str:
        """The hash of its checkpoint and how pixels come to it."""
        unmixed = " unmixed" if self.of_released and self.facts.in_channels == 3 else ""
        return f"{self.facts.sha256} {self.mean} {self.std} {self.precision}{unmixed}"


def embed_pixels(
    model: Recogniser,
    images: Tensor,
    mask: Tensor | None,
    mask_index: Tensor | None,
    mean: float,
    std: float,
    precision: Precision,
) -> Tensor:
    """Normalise pixels and embed them as `fit` does.

    Args:
        model: in `eval()`, on the images' device.
        images: `[B,3,H,W]` float in [0,1].
        mask: `[M,1,H,W]`, 1 = visible; None where nothing is hidden.
        mask_index: `[B]` int64 into the masks, or None.
        mean: subtracted from every channel.
        std: what every channel is divided by then.
        precision: as for Lightning's trainer.

    Returns:
        `[B,D]`, not normalised.
    """
    with torch.no_grad(), autocast(precision, images.device):
        return model.embed(normalised(images, mean, std), mask, mask_index)
