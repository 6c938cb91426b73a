"""Frequency masking (PPFR-FD): block DCT without the DC, shuffled and mixed by the owner's key."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from typing_extensions import Self

from lightning_app.core import draws
from lightning_app.core.batch import DrawKey
from lightning_app.core.large import empty
from lightning_app.core.owner_key import OwnerKey
from lightning_app.core.plain import Schema, is_hash
from lightning_app.desensitize.block_dct import NORMALISED, BlockDCT, Channels, Colour, transform_entries
from lightning_app.desensitize.dct import block_dct, images_at_a_time
from lightning_app.desensitize.self_normalise import shuffled

log = logging.getLogger("faceveil")
Permutation = Literal["fixed", "image"]
Redraw = Literal["once", "epoch"]
_ROUNDS = 4  # keys of `draws.secret`


class FrequencyMask(BlockDCT):
    """Mask images in the frequency domain: DCT, drop the DC, shuffle, normalise, mix neighbours, shuffle, normalise.

    What comes out is `[B,C,h,w]`, each channel of mean 0 and deviation 1 and a sum of two frequencies. Both shuffles
    are drawn from the owner's key: who has no key cannot draw them again. **That is all the key protects**: the values
    are those of a linear transform, and a network trained on enough pairs of faces and channels makes faces of them
    (docs/representations.md).

    Args:
        block: see `BlockDCT`.
        upsample: see `BlockDCT`.
        stride: see `BlockDCT`.
        align_corners: see `BlockDCT`; with False few of the channels differ, and two neighbours that cancel give zeros.
        colour: see `BlockDCT`.
        channels: see `BlockDCT`; the DC never.
        permutation: `fixed` draws one order of the channels per key, which a network gets used to; `image` another one
            for every image, by (key, the image's number).
        redraw: `once` per image; `epoch` draws anew in every epoch of training. An attacker then sees each image in as
            many orders and mixes as there are epochs: with them a linear system for its channels, and of a method with
            a privacy budget ε as many times that. Outside training it is by (key, number) in any case.
        mix: add to each channel its neighbour in the order of the first shuffle, over √2; the last one gets the first.
        key: the owner's key: a file of 64 hexadecimal digits, mode 0600 (`openssl rand -hex 32`). Without one a random
            key serves this process and ends with it.

    Raises:
        ValueError: an option is out of range, see also `BlockDCT`; or `redraw: epoch` without `permutation: image`.
        FileNotFoundError, PermissionError: the key file cannot be used.

    Source: A.1 of the adaptive hybrid masking paper, after Wang et al., "Privacy-Preserving Face Recognition in the
    Frequency Domain", AAAI 2022; what both leave open is in docs/architecture.md.
    """

    in_words = (
        "The picture is written as waves, the mean of each block is dropped, and the rest is shuffled and added up in "
        "pairs by the owner's secret key. What is released is no picture. A network that sees enough pairs of "
        "faces and numbers learns to turn them back."
    )
    has_mask = False
    keyed = True

    def __init__(
        self,
        block: int = 8,
        upsample: int = 8,
        stride: int = 8,
        align_corners: bool = True,
        colour: Colour = "grey",
        channels: Channels = None,
        permutation: Permutation = "fixed",
        redraw: Redraw = "once",
        mix: bool = True,
        key: Path | None = None,
    ) -> None:
        super().__init__(block, upsample, stride, align_corners, colour, channels)
        for name, value, words in (
            ("permutation", permutation, get_args(Permutation)), ("redraw", redraw, get_args(Redraw)),
        ):  # fmt: skip
            if value not in words:
                raise ValueError(f"{name}: {value!r}; give {' or '.join(words)}")
        if redraw == "epoch":
            if permutation == "fixed":
                raise ValueError(
                    "redraw: epoch has nothing to draw anew with permutation: fixed; give permutation: image"
                )
            log.warning(
                "%s: redraw: epoch shows each image in another order and mix every epoch; who keeps them can solve for "
                "its channels.", type(self).__name__,
            )  # fmt: skip
        self.permutation: Permutation = permutation
        self.redraw: Redraw = redraw
        self.mix = mix
        self.key = OwnerKey.of(key)

    def transform(self, planes: Tensor, index: Tensor, draw_key: DrawKey | None) -> Tensor:
        """Return the masked channels of image planes.

        Args:
            planes: `[B,P,H,W]` float32, see `planes`.
            index: `[B]` int64, the images' numbers, which `permutation: image` draws by.
            draw_key: of which `redraw: epoch` takes the epoch; None outside training.

        Returns:
            `[B,C,h,w]` float32, each channel of mean 0 and deviation 1, or zeros where it carries nothing.
        """
        height, width = (self.blocks.count(side) for side in planes.shape[-2:])
        out = empty(len(planes), self.out_channels, height, width, device=planes.device)
        if not len(planes):
            return out
        first, second = (self.order(name, index, draw_key) for name in ("first", "second"))
        at_a_time = min(max(1, images_at_a_time(out) // 2), len(out))  # half: the cache holds their sums too
        channels = out.new_empty(at_a_time, *out.shape[1:])  # made once: what is new is paged in anew
        for part in torch.arange(len(planes)).split(at_a_time):
            rows = slice(int(part[0]), int(part[-1]) + 1)
            made = channels[: len(part)]
            block_dct(planes[rows], self.blocks, self.keep, made)
            shuffled(made, first[rows], second[rows], self.mix, out[rows])
        return out

    def order(
        self, name: Literal["first", "second"], index: Tensor, draw_key: DrawKey | None = None
    ) -> Tensor:
        """Draw a shuffle from the owner's key.

        Args:
            name: which of the two.
            index: `[B]` int64, the images' numbers.
            draw_key: see `transform`.

        Returns:
            `[B,C]` int64, the channel that comes to each place.
        """
        counter = torch.arange(self.out_channels, device=index.device)
        epoch = draw_key.epoch if self.redraw == "epoch" and draw_key is not None else -1
        # four keys: `hashed` by one could be run backwards from what is seen
        keys = [
            self.key.integer("FrequencyMask", "shuffle", name, epoch, number) for number in range(_ROUNDS)
        ]
        if self.permutation == "fixed":
            return draws.secret(counter, keys).argsort().expand(len(index), -1)
        image = draws.secret(index, keys)
        return draws.secret(image[:, None] + counter, keys).argsort(1)

    def describe(self) -> dict[str, object]:
        """Return method and settings, and of the owner's key the hash alone."""
        description = {
            key: value for key, value in super().describe().items() if key not in ("dc", "normalise")
        }
        return description | {
            "permutation": self.permutation, "redraw": self.redraw, "mix": self.mix, "key_hash": self.key.hash,
        }  # fmt: skip

    def agreed(self) -> dict[str, object]:
        """Return what owners must have in common: with one order for all images the key, else each has its own."""
        description = self.describe()
        if self.permutation == "image":
            del description["key_hash"]
        return description

    @classmethod
    def from_description(cls, description: Mapping[str, Any], mask: str | Path | None = None) -> Self:
        """Refuse: the owner's key is in no description.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{cls.__name__} cannot be made from its description: the owner's key is not in it")

    @classmethod
    def grid(cls, description: Mapping[str, Any]) -> tuple[int, int] | None:
        """Return the grid of normalised channels."""
        return NORMALISED

    @classmethod
    def weaknesses(cls, description: Mapping[str, Any], size: int) -> list[str]:
        """Return nothing: no setting is known that does too little."""
        return []

    @classmethod
    def recipe(cls, description: Mapping[str, Any]) -> str:
        """Return how channels are made of an image, and that it takes the owner's key."""
        mixed = "add its neighbour over √2, " if description.get("mix", True) else ""
        order = (
            "one order for all images"
            if description.get("permutation") == "fixed"
            else "another order per image"
        )
        return (
            f"{super().recipe(description)} Then shuffle the channels, bring each to mean 0 and deviation 1, "
            f"{mixed}shuffle and normalise again ({order}). Both shuffles are drawn from the owner's key, of "
            "which the hash is given here: without its file nobody makes this input."
        )

    @classmethod
    def entries(cls, size: int, version: int) -> list[Schema]:
        """List what a description may say of it."""
        return [{
            **transform_entries(),
            "permutation": (lambda v: v in get_args(Permutation), "fixed or image"),
            "redraw": (lambda v: v in get_args(Redraw), "once or epoch"),
            "mix": (lambda v: isinstance(v, bool), "true or false"),
            "key_hash": (is_hash, "a hash of 64 digits"),
        }]  # fmt: skip
