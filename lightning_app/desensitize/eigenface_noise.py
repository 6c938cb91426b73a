"""PEEP: a face as coefficients of other people's eigenfaces, with Laplace noise, and back to a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.laplace import PER_SCALE
from lightning_app.core.plain import Schema, is_count, is_hash
from lightning_app.desensitize.base import Desensitizer
from lightning_app.desensitize.eigenfaces import LARGEST, SMALLEST, Eigenfaces, fingerprints, small_grey
from lightning_app.desensitize.noise import (
    NEXT_TO_NOTHING,
    KeyedNoise,
    Redraw,
    budget_faults,
    in_words,
    noise_entries,
)

_TOLD = ("components", "side", "images", "set_hash", "eigenfaces_hash")


class EigenfaceNoise(Desensitizer):
    """Perturb eigenfaces (PEEP): small grey face → coefficients of components in [0,1] → Laplace noise → back.

    Components, and the bounds by which coefficients come to [0,1], are of *other* people's faces, from a file that
    `python main.py eigenfaces` makes: bounds of the faces themselves would give away who is at a bound. What lies
    outside them is cut off, so that a coefficient's range is 1 and its noise has the scale 1/ε. ε holds for a
    coefficient; by composition an image has ε·K of K components. An image that the components were made of is refused.
    What comes back is grey, as sharp as the small face, and of the raw image's size.

    Args:
        eigenfaces: the file.
        epsilon: budget of each coefficient; 3 in the paper.
        redraw: `once` per image; `epoch` draws anew in every epoch of training and spends the budget every time.
        key: the owner's key: a file of 64 hexadecimal digits, mode 0600 (`openssl rand -hex 32`). Without one a random
            key serves this process and ends with it.

    Raises:
        ValueError: an option is out of range, the file is damaged, or (in `forward`) an image is one of those that
            the components were made of.
        FileNotFoundError, PermissionError: file or key cannot be used.

    Source: Chamikara et al., "Privacy preserving face recognition utilizing differential privacy", 2020.
    """

    in_words = (
        "The face is written as a sum of typical faces of other people, noise is added to how much of each it "
        "has, and a small grey face is made of that."
    )
    has_mask = False
    keyed = True
    raw_alone = True
    components: Tensor
    mean: Tensor
    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(
        self,
        eigenfaces: str | Path,
        epsilon: float = 3.0,
        redraw: Redraw = "once",
        key: str | Path | None = None,
    ) -> None:
        super().__init__()
        made = Eigenfaces.read(eigenfaces)
        self._description: dict[str, Any] = {
            "components": len(made.components), "side": made.side, "images": len(made.seen),
            "set_hash": made.set_hash, "eigenfaces_hash": made.hash,
        }  # fmt: skip
        self.register_buffer("seen", made.seen, persistent=False)
        for name in ("components", "mean", "low", "high"):
            self.register_buffer(name, getattr(made, name).double(), persistent=False)
        self.noise = KeyedNoise("EigenfaceNoise", epsilon, redraw, key)
        self._warned = False

    def prepare(self, size: tuple[int, int]) -> None:
        """Say what it costs to draw anew."""
        if not self._warned:
            self.noise.tell(self._count)
        self._warned = True

    @property
    def _count(self) -> int:
        count: int = self._description["components"]
        return count

    @torch.no_grad()
    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        """Perturb a batch; see `Desensitizer.forward`.

        Raises:
            ValueError: the components were made of one of the images; or it was made from its description, which holds
                neither components nor key.
        """
        if not self.noise.has_key:
            raise ValueError(self.noise.no_key)
        out = super().forward(batch)
        image = batch["image"].float()
        known = torch.isin(torch.stack([fingerprints(image), fingerprints(image.flip(-1))]), self.seen).any(0)
        if bool(known.any()):
            numbers = batch["index"][known][:3].tolist()
            raise ValueError(
                f"EigenfaceNoise: its components and bounds were made of {int(known.sum())} of these images (numbers "
                f"{', '.join(map(str, numbers))}): make them of other people's faces (`python main.py eigenfaces`)"
            )
        small = small_grey(image, self._description["side"]).double()  # fp64: no TF32
        width = self.high - self.low
        share = ((small - self.mean) @ self.components.mT - self.low) / width
        steps = self.noise.epsilon * PER_SCALE
        values = (share.clamp(0, 1) * steps).round().clamp(max=int(steps)).float()
        self.noise.add(
            values, PER_SCALE, image, {"eigenfaces": self._description["eigenfaces_hash"]}, draw_key
        )
        back = self.mean + (values.double() / steps * width + self.low) @ self.components
        face = back.float().clamp_(0, 1).view(len(image), 1, *2 * (self._description["side"],))
        size = (image.shape[-2], image.shape[-1])
        out["image"] = F.interpolate(face, size, mode="bilinear", antialias=True).clamp_(0, 1)
        out["image"] = out["image"].expand(-1, 3, -1, -1).contiguous()
        return out

    @property
    def lacks_key(self) -> bool:
        """Whether it was made from its description: it perturbs nothing."""
        return not self.noise.has_key

    def desensitize(self, image: Tensor) -> Tensor:
        """Return what `forward` replaces."""
        return image

    def describe(self) -> dict[str, object]:
        """Return method, what the components are and which set they are of, the budget and the key's hash."""
        return super().describe() | self._description | self.noise.describe(self._count)

    @classmethod
    def from_description(cls, description: Mapping[str, Any], mask: str | Path | None = None) -> Self:
        """Make what describes itself so; without components and key it perturbs nothing."""
        made = cls.__new__(cls)
        Desensitizer.__init__(made)
        made._description = {key: description[key] for key in _TOLD}
        made.noise = KeyedNoise.of_description(cls.__name__, description)
        made._warned = True
        return made

    @classmethod
    def recipe(cls, description: Mapping[str, Any]) -> str:
        """Return how a face is perturbed."""
        return (
            "Make a small grey copy of the face, take its coefficients of the principal components of other people's "
            f"faces, bring them to [0, 1] by those people's bounds, add noise, and go back. {in_words(description)}"
        )

    @classmethod
    def entries(cls, size: int, version: int) -> list[Schema]:
        """List what a manifest may say of it."""
        return [{
            "components": (lambda v: is_count(v, 1, LARGEST**2), "a number of components"),
            "side": (lambda v: is_count(v, SMALLEST, LARGEST), f"a number from {SMALLEST} to {LARGEST}"),
            "images": (lambda v: is_count(v, 1), "a number of images"),
            "set_hash": (is_hash, "a hash of 64 digits"),
            "eigenfaces_hash": (is_hash, "a hash of 64 digits"),
            **noise_entries(),
        }]  # fmt: skip

    @classmethod
    def inconsistencies(cls, description: Mapping[str, Any], size: int) -> list[str]:
        """Return which budgets are not those of its components."""
        return budget_faults(description, int(description["components"]))

    @classmethod
    def weaknesses(cls, description: Mapping[str, Any], size: int) -> list[str]:
        """Return what is wrong with noise that is small."""
        if description["epsilon"] <= NEXT_TO_NOTHING:
            return []
        return [f"epsilon {description['epsilon']:g} adds noise of a scale of less than 1/{NEXT_TO_NOTHING:g} of a "
                "coefficient's range: faces stay what their components show"]  # fmt: skip
