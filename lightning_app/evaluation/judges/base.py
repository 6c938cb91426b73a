"""What every judge looks like from outside: somebody who tells faces apart, whatever has been done to them."""

from __future__ import annotations

import json

from torch import Tensor, nn
from torch.nn.functional import interpolate

from lightning_app.core.tensor_hash import tensors_hash
from lightning_app.metrics.reidentification import EmbeddingMetric


class Judge(nn.Module):
    """Somebody who tells faces apart: embed images, and compare the embeddings by the judge's metric.

    A subclass overrides `embed`; one whose network looks at masks overrides `embed_masked` as well. Call the judge
    itself, `judge(images, mask, mask_index)`: it brings images to `input_size` before.

    Attributes:
        input_size: side in pixels of the images it takes, others are resized for it; None takes any.
        metric: how two embeddings are compared: `cosine` similarity, or minus the `euclidean` distance.
        of_released: it takes what one method releases, which is no picture, and takes no picture.
    """

    input_size: int | None = None
    metric: EmbeddingMetric = "cosine"
    of_released: bool = False

    def embed(self, images: Tensor) -> Tensor:
        """Embed faces.

        Args:
            images: `[B,3,H,W]` float in [0,1], clean, desensitized or restored.

        Returns:
            `[B,D]` float, of any length, on any device.
        """
        raise NotImplementedError(f"{type(self).__name__} does not override embed")

    def embed_masked(self, images: Tensor, mask: Tensor | None, mask_index: Tensor | None) -> Tensor:
        """Embed faces and say which pixels are hidden; by default that is not looked at.

        Args:
            images: `[B,3,H,W]` float in [0,1].
            mask: `[M,1,H,W]` of 0 (hidden) and 1 (visible); None where nothing is hidden, or after an attack.
            mask_index: `[B]` int64, which of the M masks lies on each image; None where there is no mask.

        Returns:
            As `embed`.
        """
        return self.embed(images)

    def forward(self, images: Tensor, mask: Tensor | None = None, mask_index: Tensor | None = None) -> Tensor:
        """Embed faces of any size, `[B,D]` on the images' device; not to be overridden, see `embed_masked`."""
        side = self.input_size
        if side is not None and images.shape[-2:] != (side, side):
            images = interpolate(
                images, (side, side), mode="bilinear", antialias=True, align_corners=False
            ).clamp(0, 1)
            mask = None if mask is None else interpolate(mask, (side, side), mode="nearest")
        return self.embed_masked(images, mask, mask_index).to(images.device)

    def clean_side(self) -> Judge:
        """Return who embeds the clean faces that what is seen is compared with; by default the judge itself."""
        return self

    def check_size(self, size: int) -> None:
        """Refuse images it would judge badly, before any is read; by default it takes all.

        Args:
            size: side of the images in pixels.

        Raises:
            ValueError: it takes no such images.
        """

    def describe(self) -> dict[str, object]:
        """Return what goes into tables and reports: JSON-able, the judge's name first, no path.

        What decides its embeddings beside its weights belongs here: it tells it from others of its class.
        """
        return {"judge": type(self).__name__}

    _description: str | None = None

    @property
    def description(self) -> str:
        """Return a description with its weights: equal for equal judges, so that nothing is measured twice."""
        if self._description is None:  # hashing takes a while, and a judge does not change
            kind = f"{type(self).__module__}.{type(self).__qualname__}"
            facts = [kind, self.describe(), self.metric, self.input_size, state_hash(self)]
            self._description = json.dumps(facts, default=str)
        return self._description

    @property
    def title(self) -> str:
        """Return what it is in a few words, for people: its description in one line."""
        name, *facts = self.describe().items()
        return ", ".join([str(name[1]), *(f"{key} {value}" for key, value in facts if value is not None)])


def state_hash(module: nn.Module) -> str:
    """Return the SHA-256 of a module's weights and buffers, those that are not saved as well.

    Args:
        module: on any device.
    """
    found = dict([*module.named_parameters(), *module.named_buffers()])
    return tensors_hash(((name, found[name].float()) for name in sorted(found)), lambda name, _: name)
