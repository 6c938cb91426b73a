"""No desensitizing at all, for what is measured on clean images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import Self

from lightning_app.desensitize.base import Desensitizer


class Identity(Desensitizer):
    """Leave images as they are; the batch's mask is None."""

    in_words = "Nothing is done: this is what clean faces give away, and what they are worth to a trainer."
    hides = False
    has_mask = False

    def desensitize(self, image: Tensor) -> Tensor:
        """Return the images themselves."""
        return image

    @classmethod
    def from_description(cls, description: Mapping[str, Any], mask: str | Path | None = None) -> Self:
        """Make it; there is nothing to describe."""
        return cls()
