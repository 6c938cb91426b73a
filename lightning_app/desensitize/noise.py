"""What the methods with a privacy budget share: ε, the owner's key, and what is told of both."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor, nn
from typing_extensions import Self

from lightning_app.core.batch import DrawKey
from lightning_app.core.laplace import add_laplace, image_hash
from lightning_app.core.owner_key import OwnerKey
from lightning_app.core.plain import Schema, is_hash, is_number, short_json

log = logging.getLogger("faceveil")
Redraw = Literal["once", "epoch"]
DECIMALS = 6  # of an ε that is released
LEAST, LARGEST = 0.01, 1e9  # of an ε: of a smaller one fp32 would leave sizes of noise out
_ROUNDS = 4  # keys of `draws.secret`
PER_EPOCH = "epsilon_image times the epochs"
NEXT_TO_NOTHING = (
    50.0  # ε of a value, whose noise has a scale of a 50th of its range: faces are as good as clean
)


class KeyedNoise(nn.Module):
    """Laplace noise with a privacy budget, drawn from the owner's key.

    A draw is a function of (key, settings, what the image shows), and of the epoch where it is drawn anew. So an image
    has one noise wherever it comes, and two images, or one under two settings, have nothing in common that somebody
    could subtract. A module, so that a desensitizer is found to hold its key (`Desensitizer.owner_keys`).

    Args:
        method: name of the class it is for.
        epsilon: budget of a single value, averaged over the values of an image.
        redraw: `once` per image, or anew in every `epoch` of training.
        key: the owner's key file; without one a random key that ends with the process.
        key_hash: hash of a key that is not here: then nothing can be drawn.

    Raises:
        ValueError: epsilon or redraw is out of range.
        FileNotFoundError, PermissionError: the key file cannot be used.
    """

    def __init__(
        self, method: str, epsilon: float, redraw: Redraw, key: str | Path | None, key_hash: str | None = None
    ) -> None:
        super().__init__()
        if isinstance(epsilon, bool) or not LEAST <= epsilon <= LARGEST:
            raise ValueError(
                f"epsilon: {epsilon}; give a number from {LEAST:g} to {LARGEST:g} (the paper takes 3)"
            )
        if redraw not in get_args(Redraw):
            raise ValueError(f"redraw: {redraw!r}; give {' or '.join(get_args(Redraw))}")
        self.method, self.epsilon = method, float(epsilon)
        self.redraw: Redraw = redraw
        self.key = None if key_hash is not None else OwnerKey.of(key)
        self.key_hash = key_hash if self.key is None else self.key.hash
        self._drawn: tuple[str, dict[str, list[int]]] = ("", {})  # keys of the settings and epoch met last

    @classmethod
    def of_description(cls, method: str, description: Mapping[str, Any]) -> Self:
        """Make it of a description, without the key: it says its budget and cannot draw.

        Args:
            method: name of the class it is for.
            description: what `describe` gave.
        """
        epsilon, redraw = description["epsilon"], description["redraw"]
        return cls(method, epsilon, redraw, None, str(description["key_hash"]))

    @property
    def has_key(self) -> bool:
        """Whether noise can be drawn."""
        return self.key is not None

    @property
    def no_key(self) -> str:
        """Return why nothing can be drawn."""
        return (
            f"{self.method}: made from its description, which holds no key: it cannot draw its noise. Give the "
            "desensitizer itself, with the owner's key"
        )

    def add(
        self,
        values: Tensor,
        scale: float,
        image: Tensor,
        settings: Mapping[str, object],
        draw_key: DrawKey | None,
    ) -> Tensor:
        """Add noise to whole numbers of a grid's steps, in place.

        Args:
            values: `[B,n]` float32, whole numbers; changed.
            scale: of the noise in steps.
            image: `[B,C,H,W]`, what the values were made of.
            settings: all that the values and their noise depend on beside the image: plain values.
            draw_key: of which `redraw: epoch` takes the epoch; None outside training.

        Returns:
            The same tensor.

        Raises:
            ValueError: the key is not here.
        """
        epoch = draw_key.epoch if self.redraw == "epoch" and draw_key is not None else -1
        keys = self._keys(json.dumps([self.method, self.epsilon, settings, epoch], sort_keys=True))
        return add_laplace(values, scale, image_hash(image, keys["image"]), keys["noise"], keys["place"])

    def _keys(self, draw: str) -> dict[str, list[int]]:
        if self.key is None:
            raise ValueError(self.no_key)
        if self._drawn[0] != draw:
            key = self.key
            self._drawn = draw, {
                name: [key.integer("Laplace", name, draw, number) for number in range(_ROUNDS)]
                for name in ("image", "noise", "place")
            }  # fmt: skip
        return self._drawn[1]

    def tell(self, values: int) -> None:
        """Warn of the budget of an image, where it is drawn anew in every epoch.

        Args:
            values: of an image.
        """
        if self.redraw == "epoch" and self.key is not None:
            log.warning(
                "%s: redraw: epoch spends ε = %g per value, %g per image, anew in every epoch of training: who sees "
                "several epochs sees as many times that, and their mean has less noise.",
                self.method, self.epsilon, composed(self.epsilon, values),
            )  # fmt: skip

    def describe(self, values: int | None) -> dict[str, object]:
        """Return the budget and the key's hash.

        Args:
            values: of an image that have noise; None before the images' size is known.
        """
        image = None if values is None else composed(self.epsilon, values)
        return {
            "epsilon": self.epsilon,
            "epsilon_image": image,
            "epsilon_total": image if self.redraw == "once" else PER_EPOCH,
            "redraw": self.redraw,
            "key_hash": self.key_hash,
        }


def warn_of_moved(desensitizer: nn.Module, only_flips: bool, flips: bool = False) -> None:
    """Tell where raw images are augmented before noise that is drawn once per image: each version is another image.

    Args:
        desensitizer: whose output is not augmented itself.
        only_flips: whether images are mirrored at most, which makes two of each.
        flips: whether they are.
    """
    for step in desensitizer.modules():
        noise = getattr(step, "noise", None)
        if not isinstance(noise, KeyedNoise) or noise.redraw != "once":
            continue
        if only_flips and flips:
            log.info(
                "%s: an image and its mirror image (data.augment.flip) have noise of their own: twice epsilon_total.",
                noise.method,
            )
        if not only_flips:
            log.warning(
                "%s: data.augment changes raw images before their noise is drawn, anew in every epoch, by what they "
                "show: each version has noise of its own. That spends ε in every epoch, as redraw: epoch does, and "
                "epsilon_total does not count it. Mirror images at most (data.augment: flip).",
                noise.method,
            )  # fmt: skip


def composed(epsilon: float, values: int, epochs: int = 1) -> float:
    """Return the budget of an image whose values have noise each: ε·values, and as often as it was drawn.

    Changing one face for another changes all its values, so that their budgets add up (sequential composition).

    Args:
        epsilon: of a value.
        values: of an image.
        epochs: how often its noise was drawn anew.

    Source: Dwork and Roth, "The algorithmic foundations of differential privacy", 2014, theorem 3.14.

    Example:
        >>> composed(3.0, 64), composed(3.0, 64, epochs=8)
        (192.0, 1536.0)
    """
    return epsilon * values * epochs


def budget_faults(description: Mapping[str, Any], values: int | None) -> list[str]:
    """Return which budgets of a description are not those of an image's values together.

    Args:
        description: what `describe` gave.
        values: of an image that have noise; None where that is not known.
    """
    if values is None or description["redraw"] != "once":
        return []
    image = composed(description["epsilon"], values)
    return [
        f"{name} is {short_json(description[name])}, its values come to {image:g} together"
        for name in ("epsilon_image", "epsilon_total")
        if description[name] != image
    ]


def noise_entries() -> Schema:
    """Return what a description may say of a budget."""
    return {
        "epsilon": (
            lambda v: is_number(v, 0, LARGEST, DECIMALS),
            f"a number above 0 of {DECIMALS} decimals at most",
        ),
        "epsilon_image": (_is_budget, "null or a number above 0"),
        "epsilon_total": (
            lambda v: v == PER_EPOCH or _is_budget(v),
            f"null, a number above 0 or {PER_EPOCH!r}",
        ),
        "redraw": (lambda v: v in get_args(Redraw), "once or epoch"),
        "key_hash": (is_hash, "the hash of a key"),
    }


def _is_budget(value: object) -> bool:
    return value is None or is_number(value, 0, 1e30, None)


def in_words(description: Mapping[str, Any]) -> str:
    """Return what the budget is, for cards.

    Args:
        description: what `describe` gave; from somebody else's file it may hold anything.
    """
    found = [description.get(key) for key in ("epsilon", "epsilon_image")]
    numbers = [f"{one:g}" if isinstance(one, int | float) else "?" for one in found]
    often = ", anew in every epoch: as many times that" if description.get("redraw") == "epoch" else ""
    return (
        f"The noise is Laplace's with ε = {numbers[0]} per value, {numbers[1]} per image by composition{often}. It is "
        "drawn from the owner's key, of which the hash is given here: without its file nobody draws it again."
    )
