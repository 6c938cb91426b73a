"""No desensitizing at all, for what is measured on clean images."""

from __future__ import annotations

from torch import Tensor

from lightning_app.desensitize.base import Desensitizer


class Identity(Desensitizer):
    """Leave images as they are; the batch's mask is None."""

    @property
    def hides(self) -> bool:
        """False: nothing is changed."""
        return False

    def veil(self, image: Tensor) -> Tensor:
        """Return the images themselves."""
        return image
