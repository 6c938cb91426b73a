"""Block DCT: images as channels, one for each frequency."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from typing_extensions import Self

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.plain import Schema, is_count
from lightning_app.desensitize.base import Desensitizer
from lightning_app.desensitize.dct import (
    Blocks,
    block_dct,
    from_ycbcr,
    grey,
    images_at_a_time,
    inverse_block_dct,
    ycbcr,
    zigzag,
)
from lightning_app.desensitize.self_normalise import self_normalise

log = logging.getLogger("faceveil")
Colour = Literal["grey", "ycbcr"]
Channels = int | list[int | str] | None
_PLANES: Mapping[str, tuple[str, ...]] = {"grey": ("y",), "ycbcr": ("y", "cb", "cr")}
_NAMED = re.compile(r"(y|cb|cr)(0|[1-9][0-9]*)")
_MOST = 16  # samples a side of a block, and times that an image is enlarged
NORMALISED = 16, 128  # scale and offset of channels of mean 0 and deviation 1: −8 … 8, 0 being a level


class BlockDCT(Desensitizer):
    """Turn images into block DCT coefficients: one channel per frequency, one value per block.

    Coefficients are numbered row by row, `block·u + v`, u the vertical and v the horizontal frequency; 0 is the DC,
    the block's mean, which holds nearly all of what a viewer sees. Channels come in ascending order, those of Y before
    those of Cb and Cr. Values are those of the orthonormal DCT of pixels in [0,1]. They hide nothing from anybody who
    can invert a linear map: this is for ablation, and the base of `FrequencyMask`.

    What it returns cannot be mirrored: coefficients of odd horizontal frequency change their sign in a mirrored image.

    Args:
        block: side of a block in samples.
        upsample: factor by which images are enlarged before, bilinear; 8 with stride 8 gives one block per pixel. 1
            with stride 1 slides without enlarging.
        stride: samples from one block to the next, at most `block`.
        align_corners: how images are enlarged, as in `torch.nn.functional.interpolate`. True, as public code does,
            gives 63 different channels of 8×8 blocks. With False 15 of them (a frequency of 4) carry nothing and are
            dropped, and the other 48, once normalised, are 8 different maps, up to their sign.
        colour: `grey` transforms the luma; `ycbcr` luma and chroma, three times the channels.
        channels: which coefficients are kept. A number keeps as many of each plane, low frequencies first (JPEG's
            zigzag); a list names them: 9 is that coefficient of every plane, `cb9` that of one (`y`, `cb`, `cr`).
            All by default.
        dc: keep the DC as well.
        normalise: bring each channel of each image to mean 0 and deviation 1.

    Raises:
        ValueError: an option is out of range, or no channel is left that carries anything.

    Source: appendix A.1.1 of the adaptive hybrid masking paper; ×8 bilinear before it
    from TFace (DuetFace, DCTDP).
    """

    in_words = (
        "Each small block of the picture is written as waves, from coarse to fine, as JPEG does. What is released "
        "are those numbers and no picture, but anybody can turn them back."
    )
    is_image = False
    flips = False
    has_mask = False

    def __init__(
        self,
        block: int = 8,
        upsample: int = 8,
        stride: int = 8,
        align_corners: bool = True,
        colour: Colour = "grey",
        channels: Channels = None,
        dc: bool = False,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        for name, value, least, most in (
            ("block", block, 2, _MOST), ("upsample", upsample, 1, _MOST), ("stride", stride, 1, block),
        ):  # fmt: skip
            if not is_count(value, least, most):
                raise ValueError(f"{name}: {value}; give a whole number from {least} to {most}")
        if colour not in get_args(Colour):
            raise ValueError(f"colour: {colour!r}; give grey or ycbcr")
        self.blocks = Blocks(block, upsample, stride, align_corners)
        self.colour: Colour = colour
        self.channels, self.dc, self.normalise = in_order(channels), dc, normalise
        self.keep = self._alive(_chosen(channels, block, _PLANES[colour], dc))
        self.out_channels = len(self.keep)

    def _alive(self, keep: Sequence[int]) -> list[int]:
        """Drop the channels that are 0 whatever the image is, and name them."""
        block, dead = self.blocks.block, set(self.blocks.dead)
        none = [k for k in keep if {k // block % block, k % block} & dead]
        if not none:
            return list(keep)
        if len(none) == len(keep):
            raise ValueError(
                f"channels: {self.channels} carry nothing with align_corners: "
                f"{str(self.blocks.align_corners).lower()}; give others"
            )
        names = ", ".join(_name(k, block, _PLANES[self.colour]) for k in none)
        log.info("%s: %d of %d channels carry nothing and are dropped: %s.",
                 type(self).__name__, len(none), len(keep), names)  # fmt: skip
        return [k for k in keep if k not in none]

    @property
    def plane_names(self) -> tuple[str, ...]:
        """The planes that are transformed: `y`, or `y`, `cb` and `cr`."""
        return _PLANES[self.colour]

    def prepare(self, size: tuple[int, int]) -> None:
        """Check that blocks fill images of this size.

        Raises:
            ValueError: they do not.
        """
        for side in size:
            self.blocks.count(side)

    def out_size(self, size: int) -> int:
        """Return the number of blocks along a side.

        Args:
            size: side of the images in pixels.

        Raises:
            ValueError: blocks do not fill it.
        """
        return self.blocks.count(size)

    def planes(self, image: Tensor) -> Tensor:
        """Return what is transformed of images: luma, or luma and chroma.

        Args:
            image: `[B,3,H,W]` float in [0,1].

        Returns:
            `[B,1,H,W]` or `[B,3,H,W]` float32.
        """
        return grey(image) if self.colour == "grey" else ycbcr(image)

    @torch.no_grad()
    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        """Transform a batch.

        Args:
            batch: `image [B,3,H,W]` float in [0,1], `index [B]`; other entries are passed on.
            draw_key: what random draws are a function of; here there are none.

        Returns:
            A new dict: `image [B,C,h,w]` float32, `mask` None, `mask_index` of zeros.

        Raises:
            ValueError: blocks do not fill the images.
        """
        out = batch.copy()
        out["image"] = self.transform(self.planes(batch["image"]), batch["index"], draw_key)
        out["mask"], out["mask_index"] = None, torch.zeros_like(batch["index"])
        return out

    def transform(self, planes: Tensor, index: Tensor, draw_key: DrawKey | None) -> Tensor:
        """Return the channels of image planes.

        Args:
            planes: `[B,P,H,W]` float32, see `planes`.
            index: `[B]` int64, the images' numbers.
            draw_key: see `forward`.

        Returns:
            `[B,C,h,w]` float32.
        """
        found = block_dct(planes, self.blocks, self.keep)
        if self.normalise:
            for part in found.split(images_at_a_time(found)):
                self_normalise(part)
        return found

    @torch.no_grad()
    def look(self, image: Tensor) -> Tensor:
        """Make pictures: the inverse DCT, with what was dropped at zero.

        Enlarged images and overlapping blocks give the image that fits them best. With the DC (and not normalised) it
        is the image itself, clamped to [0,1]; without, each image is stretched to [0,1] by its least and greatest
        value.

        Args:
            image: `[B,C,h,w]`, as `forward` returns it.

        Returns:
            `[B,3,H,W]` float in [0,1], as large as the raw images.
        """
        planes = inverse_block_dct(image, self.blocks, self.keep, len(_PLANES[self.colour]))
        seen = from_ycbcr(planes) if self.colour == "ycbcr" else planes.expand(-1, 3, -1, -1)
        if self.dc and not self.normalise:
            return seen.clamp(0, 1)
        low, high = seen.amin((1, 2, 3), keepdim=True), seen.amax((1, 2, 3), keepdim=True)
        return ((seen - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)

    def describe(self) -> dict[str, object]:
        """Return method and settings."""
        described = {"block": self.blocks.block, "upsample": self.blocks.upsample, "stride": self.blocks.stride,
                 "align_corners": self.blocks.align_corners, "colour": self.colour, "channels": self.channels,
                 "dc": self.dc, "normalise": self.normalise}  # fmt: skip
        return super().describe() | described

    @classmethod
    def from_description(cls, description: Mapping[str, Any], mask: str | Path | None = None) -> Self:
        """Make it of its settings."""
        return cls(**{key: value for key, value in description.items() if key != "method"})

    @classmethod
    def grid(cls, description: Mapping[str, Any]) -> tuple[int, int] | None:
        """Return ranges of values: normalised channels take −8 … 8 in sixteenths; of others each has another range."""
        return NORMALISED if description.get("normalise") else None

    @classmethod
    def shape(cls, description: Mapping[str, Any], size: int) -> tuple[int, int, int] | None:
        """Count channels and blocks."""
        made = BlockDCT(
            **{key: description[key] for key in (*transform_entries(), "dc") if key in description}
        )
        side = made.out_size(size)
        return made.out_channels, side, side

    @classmethod
    def weaknesses(cls, description: Mapping[str, Any], size: int) -> list[str]:
        """Return why no release can be made: without shuffling, the channels are the image."""
        return [
            "its channels are the image, which anybody turns back; FrequencyMask shuffles them by the owner's key"
        ]

    @classmethod
    def recipe(cls, description: Mapping[str, Any]) -> str:
        """Return how channels are made of an image."""
        described = {
            key: description.get(key) for key in ("block", "upsample", "stride", "align_corners", "colour")
        }
        planes = "Y, Cb and Cr (BT.601, full range)" if described["colour"] == "ycbcr" else "luma (BT.601)"
        enlarged = (
            "" if described["upsample"] == 1
            else f"enlarge {described['upsample']} times (bilinear, align_corners {described['align_corners']}), "
        )  # fmt: skip
        kept = description.get("channels")
        which = "all" if kept is None else "the lowest (zigzag)" if isinstance(kept, int) else "the listed"
        dropped = "" if description.get("dc") else ", the DC dropped"
        return (
            f"Take {planes} of pixels in [0, 1], {enlarged}take blocks of {described['block']} samples every "
            f"{described['stride']}, their orthonormal DCT-II, and a channel for each frequency, row by row: {which} "
            f"of them{dropped}, without those that are 0 whatever the image is."
            + (
                " Bring each channel of each image to mean 0 and deviation 1."
                if description.get("normalise")
                else ""
            )
        )

    @classmethod
    def entries(cls, size: int, version: int) -> list[Schema]:
        """List what a description may say of it."""
        return [{**transform_entries(), "dc": _YES_OR_NO, "normalise": _YES_OR_NO}]


_YES_OR_NO = (lambda v: isinstance(v, bool), "true or false")


def transform_entries() -> Schema:
    """Return what a description may say of the transform."""
    return {
        "block": (lambda v: is_count(v, 2, _MOST), f"a number from 2 to {_MOST}"),
        "upsample": (lambda v: is_count(v, 1, _MOST), f"a number from 1 to {_MOST}"),
        "stride": (lambda v: is_count(v, 1, _MOST), f"a number from 1 to {_MOST}"),
        "align_corners": _YES_OR_NO,
        "colour": (lambda v: v in get_args(Colour), "grey or ycbcr"),
        "channels": (_are_channels, "null, a number of channels, or a list of them in their order"),
    }


def _are_channels(value: object) -> bool:
    most = 3 * _MOST**2
    if isinstance(value, list):
        names = all(
            is_count(one, 0, most) or (isinstance(one, str) and _NAMED.fullmatch(one) is not None)
            for one in value
        )
        return len(value) <= most and names and value == in_order(value)
    return value is None or is_count(value, 1, most)


def in_order(channels: Channels) -> Channels:
    """Sort a list of channels, which has one spelling then: numbers first, then names, each as they are counted.

    Args:
        channels: as `BlockDCT` takes them; what is no list, or holds anything else, stays as it is.
    """
    if not isinstance(channels, list) or not all(isinstance(one, int | str) for one in channels):
        return channels
    named = [_NAMED.fullmatch(one) if isinstance(one, str) else None for one in channels]
    if any(isinstance(one, str) and match is None for one, match in zip(channels, named, strict=True)):
        return channels  # refused where it is taken apart
    planes = _PLANES["ycbcr"]

    def place(pair: tuple[int | str, re.Match[str] | None]) -> tuple[int, int]:
        one, match = pair
        return (-1, int(one)) if match is None else (planes.index(match[1]), int(match[2]))

    return [one for one, _ in sorted(zip(channels, named, strict=True), key=place)]


def _name(number: int, block: int, planes: Sequence[str]) -> str:
    plane, coefficient = divmod(number, block**2)
    return f"{planes[plane]}{coefficient}" if len(planes) > 1 else str(coefficient)


def _chosen(channels: Channels, block: int, planes: Sequence[str], dc: bool) -> list[int]:
    """Return the numbers of the channels that are asked for, ascending; `dct.block_dct` says how they count."""
    each, least = block**2, 0 if dc else 1
    if channels is None:
        kept = set(range(least, each))
        return [plane * each + k for plane in range(len(planes)) for k in sorted(kept)]
    if isinstance(channels, int):
        if not is_count(channels, 1, each - least):
            raise ValueError(f"channels: {channels}; give a number from 1 to {each - least}")
        kept = set(zigzag(block)[least : least + channels])
        return [plane * each + k for plane in range(len(planes)) for k in sorted(kept)]
    chosen: list[int] = []
    for one in channels:
        named = _NAMED.fullmatch(one) if isinstance(one, str) else None
        where = list(planes) if named is None else [named[1]]
        number = int(named[2]) if named is not None else one
        if not is_count(number, 0, each - 1) or where[0] not in planes:
            names = f"y0 … {planes[-1]}{each - 1}" if len(planes) > 1 else f"y0 … y{each - 1}"
            raise ValueError(
                f"channels: {one!r} is no coefficient here; give numbers from {least} to {each - 1}, or {names}"
            )
        if number == 0 and not dc:
            raise ValueError(
                f"channels: {one!r} is the DC, a small picture of the face, which is never kept; leave it out"
            )
        chosen += [planes.index(plane) * each + int(number) for plane in where]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"channels: {channels} names {'one twice' if chosen else 'none'}; give each one once"
        )
    return sorted(chosen)
