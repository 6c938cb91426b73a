"""What every way of veiling an image set looks like from outside."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_app.core.batch import Batch, Moment


class Desensitizer(nn.Module):
    """Batch in, batch out, vectorised, on the batch's device; the base class veils nothing.

    A simple desensitizer overrides `veil` on images alone; one that mixes labels, returns other channels or
    draws masks overrides `forward`.

    Attributes:
        out_channels: channels of the image it returns; 3 for pictures.
        is_image: whether its output can be shown and compared with the raw image.
    """

    out_channels: int = 3
    is_image: bool = True

    @property
    def hides(self) -> bool:
        """Whether this desensitizer changes images at all; False for `Identity` alone."""
        return True

    def prepare(self, size: tuple[int, int]) -> None:
        """Check early, before anything is trained, that images of this size can be veiled; draw what is needed.

        Args:
            size: (height, width) of the images.

        Raises:
            ValueError: they cannot; the message says why.
        """

    def veil(self, image: Tensor) -> Tensor:
        """Veil images.

        Args:
            image: `[B,3,H,W]` float in [0,1].

        Returns:
            The same shape and range; the caller rounds to the uint8 grid.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither veil nor forward")

    def forward(self, batch: Batch, moment: Moment | None = None) -> Batch:
        """Veil a batch.

        Args:
            batch: `image [B,3,H,W]` float in [0,1], `index [B]`; other entries are passed on.
            moment: what random draws are a function of; None means `Moment()`.

        Returns:
            A new dict: `image` veiled, `mask [M,1,H,W]` or None, `mask_index [B]`.
        """
        veiled = batch.copy()
        veiled["image"] = self.veil(batch["image"])
        veiled["mask"] = None
        veiled["mask_index"] = batch["index"].new_zeros(len(batch["image"]))
        return veiled

    def describe(self) -> dict[str, object]:
        """Return what goes into manifests and checkpoints: JSON-able, method name first, no face data."""
        return {"method": type(self).__name__}
