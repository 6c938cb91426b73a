"""Laplace noise on pixels: the plainest method with a privacy budget, a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.plain import Schema
from lightning_app.desensitize.base import Desensitizer
from lightning_app.desensitize.noise import (
    NEXT_TO_NOTHING,
    KeyedNoise,
    Redraw,
    budget_faults,
    in_words,
    noise_entries,
)

_STEPS = 255  # of the uint8 grid, from black to white


class LaplaceNoise(Desensitizer):
    """Add Laplace noise to every pixel and channel, on the uint8 grid, and cut off what is below black and above white.

    A pixel's whole range is its sensitivity, so that the noise has a scale of 255/ε steps. ε holds for a single value
    of a pixel. By composition an image has ε·3·H·W, a budget so large that it promises next to nothing: of 112 px at
    ε = 3 it is 112,896. Pixels are whole numbers and so is the noise: nothing of a value is left in the low bits of a
    float (docs/noise.md).

    Args:
        epsilon: budget of each value; 3 in the paper.
        redraw: `once` per image; `epoch` draws anew in every epoch of training and spends the budget every time.
        key: the owner's key: a file of 64 hexadecimal digits, mode 0600 (`openssl rand -hex 32`). Without one a random
            key serves this process and ends with it.

    Raises:
        ValueError: epsilon or redraw is out of range.
        FileNotFoundError, PermissionError: the key file cannot be used.

    Source: the second paper's Table 2; Dwork et al., "Calibrating noise to sensitivity in private data analysis", 2006.
    """

    in_words = "Random noise is added to every pixel, drawn once from the owner's key."
    has_mask = False
    keyed = True

    def __init__(self, epsilon: float = 3.0, redraw: Redraw = "once", key: str | Path | None = None) -> None:
        super().__init__()
        self.noise = KeyedNoise("LaplaceNoise", epsilon, redraw, key)
        self._values: int | None = None

    def prepare(self, size: tuple[int, int]) -> None:
        """Count the values of an image, and say what it costs to draw anew."""
        if self._values is None:
            self.noise.tell(3 * size[0] * size[1])
        self._values = 3 * size[0] * size[1]

    @torch.no_grad()
    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        """Add noise to a batch; see `Desensitizer.forward`.

        Raises:
            ValueError: it was made from its description, which holds no key.
        """
        out = super().forward(batch)
        image = batch["image"]
        self._values = image[0].numel() if len(image) else self._values
        values = (image.float() * _STEPS).round_().flatten(1)
        self.noise.add(values, _STEPS / self.noise.epsilon, image, {}, draw_key)
        out["image"] = values.clamp_(0, _STEPS).div_(_STEPS).view(image.shape)
        return out

    @property
    def lacks_key(self) -> bool:
        """Whether it was made from its description: it cannot draw its noise."""
        return not self.noise.has_key

    def desensitize(self, image: Tensor) -> Tensor:
        """Return a copy, to which `forward` adds the noise."""
        return image

    def describe(self) -> dict[str, object]:
        """Return method, ε of a value and composed over an image, and the key's hash."""
        return super().describe() | self.noise.describe(self._values)

    @classmethod
    def from_description(cls, description: Mapping[str, Any], mask: str | Path | None = None) -> Self:
        """Make what describes itself so; without the key it cannot draw its noise."""
        made = cls.__new__(cls)
        Desensitizer.__init__(made)
        made.noise = KeyedNoise.of_description(cls.__name__, description)
        made._values = None
        return made

    @classmethod
    def recipe(cls, description: Mapping[str, Any]) -> str:
        """Return in words that every pixel has noise, and how much."""
        return f"Every value of every pixel has noise, on the uint8 grid. {in_words(description)}"

    @classmethod
    def entries(cls, size: int, version: int) -> list[Schema]:
        """List what a manifest may say of it: the budget and the key's hash."""
        return [noise_entries()]

    @classmethod
    def inconsistencies(cls, description: Mapping[str, Any], size: int) -> list[str]:
        """Return which budgets are not those of three values a pixel."""
        return budget_faults(description, 3 * size**2)

    @classmethod
    def weaknesses(cls, description: Mapping[str, Any], size: int) -> list[str]:
        """Return what is wrong with noise that is small."""
        if description["epsilon"] <= NEXT_TO_NOTHING:
            return []
        return [f"epsilon {description['epsilon']:g} adds noise of {_STEPS / description['epsilon']:.2g} steps of 255: "
                "faces are as good as clean"]  # fmt: skip
