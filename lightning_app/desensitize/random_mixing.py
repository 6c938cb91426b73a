"""Mixing with a number of images that differs from batch to batch: drawn uniformly, or chosen by the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import Self

from lightning_app.core.batch import DrawKey
from lightning_app.core.draws import seed_from
from lightning_app.core.plain import Schema, is_count
from lightning_app.desensitize.base import Desensitizer
from lightning_app.desensitize.mixing import _MOST, MixUp, Redraw

_K = 0x6D6978  # "mix": names the draw


class RandomMixUp(MixUp):
    """Mix as `MixUp` does, every batch with a k of its own.

    Under an ordinary recogniser k is drawn uniformly from the candidates, by (seed, epoch, step): the same on every
    process. A model that learns k (`lightning_app.models.AdaMixUp`) gets the batches of `fit` unmixed, and mixes them
    with the k that its strategy draws. Outside training k is drawn uniformly, by the images of the batch. Who is mixed,
    and how much of each, follows from the owner's key alone, as with `MixUp`; k is no secret, for labels show it.

    Raw images are mirrored before, in both cases.

    Args:
        k: the candidates, different numbers of images from 2 to 64.
        cap: the largest coefficient, above 1 / the smallest k and at most 1.
        key: the owner's key file, see `MixUp`.
        redraw: see `MixUp`.

    Raises:
        ValueError: k, cap or redraw is out of range.

    Source: the paper, section 3.3; uniform k is the control that its Table 3 asks for.
    """

    in_words = "Several faces are laid over each other as in MixUp, in every batch another number of them."
    has_mask = False
    flips = False

    def __init__(
        self,
        k: Sequence[int] = (2, 3, 4, 5, 6),
        cap: float = 0.55,
        key: str | Path | None = None,
        redraw: Redraw = "once",
    ) -> None:
        candidates = tuple(int(one) for one in k)
        if not candidates or len(set(candidates)) != len(candidates):
            raise ValueError(f"k: {list(candidates)}; give different numbers of images, such as [2, 3, 4]")
        for one in (min(candidates), max(candidates)):  # the cap must be above 1 / the smallest
            super().__init__(one, cap, key, redraw)
        self.candidates = candidates

    def images_of(self, index: Tensor, draw_key: DrawKey) -> int:
        """Draw k uniformly: by the step; outside training by the images of the batch."""
        counters = [draw_key.seed, draw_key.epoch, draw_key.step]
        if draw_key.step < 0:
            counters.append(int(index.sum()))
        return self.candidates[seed_from(_K, *counters) % len(self.candidates)]

    def why_not_released(self) -> str:
        """Return why no release can be made: a release has mixes of one number of images."""
        return (
            f"{type(self).__name__}: every batch is mixed of another number of images, and a release of one; take "
            "MixUp, with one k"
        )

    def agreed(self) -> dict[str, object]:
        """Return all but the key."""
        return super().agreed() | {"k": list(self.candidates)}

    @classmethod
    def entries(cls, size: int, version: int) -> list[Schema]:
        """List what a manifest may say of it: what it may of MixUp, k being a list."""

        def fits(value: Any) -> bool:
            if not isinstance(value, list) or not 1 <= len(value) < _MOST:
                return False
            return all(is_count(one, 2, _MOST) for one in value) and len({*value}) == len(value)

        return [
            {**one, "k": (fits, f"a list of different numbers of images from 2 to {_MOST}")}
            for one in super().entries(size, version)
        ]

    @classmethod
    def from_description(cls, description: Mapping[str, Any], mask: str | Path | None = None) -> Self:
        """Make it of its candidates and cap; without the key it passes images on, and cannot mix."""
        made: Self = super().from_description(description, mask)
        return made


def mixer_of(desensitizer: Desensitizer) -> RandomMixUp | None:
    """Find what leaves the number of images in a mix to a model: the desensitizer, or the last step of a chain.

    Args:
        desensitizer: of the data.

    Returns:
        The one that mixes; None where none leaves k open, or something follows it.
    """
    last = desensitizer.in_order[-1]
    return last if isinstance(last, RandomMixUp) else None
