"""Masks of a release whose images have one each: a PNG beside every picture, written by one rule, and a codebook.

The mask of `images/P/I.png` is `masks/P/I.png`: one channel of 0 (hidden) and 255 (visible), in the bytes that
`encode_png` gives it at level 1, which every build of zlib writes alike. So a mask's file is a function of its pixels.
Of kind `codebook` the public masks lie in `codebook/NNNN.png`, and every mask's file is, byte for byte, one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from lightning_app.core.plain import is_count, short_json
from lightning_app.core.png import encode_png
from lightning_app.release.format.canonical import RUNS, Writing, byte_faults
from lightning_app.release.format.names import IMAGES
from lightning_app.release.format.png import read_png
from lightning_app.release.format.pseudonyms import DIGITS
from lightning_app.release.format.tensors import MOST_BATCH

MASKS, CODES = "masks", "codebook"
MOST_CODES = 4096
_MASK = re.compile(rf"{MASKS}/([0-9a-f]{{{DIGITS}}})/[0-9a-f]{{{DIGITS}}}\.png")
_CODE = re.compile(rf"{CODES}/[0-9]{{4}}\.png")


@dataclass(frozen=True)
class Masks:
    """What a manifest says of masks that its images have one each.

    Attributes:
        shown: visible pixels of every image, exactly.
        batch: images that were desensitized together: on the same machine the same masks come of the same batches.
        codes: how many public masks there are, of kind `codebook`; 0 of the others.
        pairs: how many pairs `pairs.txt` has; 0 where there is none.
    """

    shown: int
    batch: int
    codes: int = 0
    pairs: int = 0

    @classmethod
    def parse(cls, found: Mapping[str, Any], size: int, where: str) -> Self:
        """Read what a manifest says.

        Args:
            found: there.
            size: side of the images in pixels.
            where: it stands, for messages.

        Raises:
            ValueError: an entry is missing, is none of these or out of range.
        """
        wanted = {field.name for field in fields(cls)}
        if found.keys() != wanted:
            raise ValueError(
                f"{where} has other entries than {', '.join(sorted(wanted))}; the release is damaged"
            )
        for key, least, most in (
            ("shown", 1, size * size - 1), ("batch", 1, MOST_BATCH), ("codes", 0, MOST_CODES), ("pairs", 0, 1 << 40),
        ):  # fmt: skip
            if not is_count(found[key], least, most):
                raise ValueError(
                    f"{where}.{key} is {short_json(found[key])}, not a number from {least} to {most}; the release is "
                    "damaged"
                )
        return cls(**found)


def mask_file(image: str) -> str:
    """Return the path of an image's mask.

    Args:
        image: its own path, `images/P/I.png`.
    """
    return MASKS + image.removeprefix(IMAGES)


def code_file(number: int) -> str:
    """Return the path of a public mask, by its number from 0."""
    return f"{CODES}/{number:04d}.png"


def is_mask_file(name: str) -> bool:
    """Return whether a path is that of an image's mask."""
    return _MASK.fullmatch(name) is not None


def is_code_file(name: str) -> bool:
    """Return whether a path is that of a public mask."""
    return _CODE.fullmatch(name) is not None


def check_masks(masks: Masks, images: Collection[str], files: Mapping[str, str], where: str) -> None:
    """Hold the list of a manifest's files against its masks: one for every image, and no other.

    Args:
        masks: what it says of them.
        images: paths of its images.
        files: path -> SHA-256 of all its files.
        where: it stands, for messages.

    Raises:
        ValueError: one is missing, too many, or none of the codebook.
    """
    there = {name for name in files if is_mask_file(name) or is_code_file(name)}
    codes = [code_file(number) for number in range(masks.codes)]
    wanted = {*map(mask_file, images), *codes}
    if odd := sorted(there ^ wanted):
        word = "is missing" if odd[0] in wanted else "does not belong there"
        raise ValueError(f"{where}: files: {odd[0]} {word}; the release is damaged")
    if not masks.codes:
        return
    public = {files[name] for name in codes}
    if len(public) < len(codes):
        raise ValueError(f"{where}: files: two masks of the codebook are the same; the release is damaged")
    other = sorted(name for name in map(mask_file, images) if files[name] not in public)
    if other:
        raise ValueError(
            f"{where}: files: the mask of {len(other)} images is none of the codebook's {len(codes)}, the first is "
            f"{other[0]}; the release is damaged"
        )


def encode_mask(mask: Tensor | NDArray[np.uint8]) -> bytes:
    """Return the bytes of a mask's file.

    Args:
        mask: `[H,W]` or `[1,H,W]` of 0 (hidden) and 1 (visible).
    """
    values = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask).astype(np.uint8)
    return encode_png(values.reshape(values.shape[-2:]) * np.uint8(255), RUNS)


def mask_faults(data: bytes, size: int, shown: int) -> tuple[list[str], NDArray[np.uint8] | None]:
    """Take a mask's file apart: its pixels, how many it shows, and every byte of how it is written.

    Args:
        data: the file.
        size: side it must have, in pixels.
        shown: pixels that it must show.

    Returns:
        What is wrong, in words; and the mask `[size,size]` of 0 and 1, None where it is none.
    """
    png = read_png(data)
    faults = list(png.faults)
    if png.pixels is None:
        return faults, None
    height, width, channels = png.pixels.shape
    if (height, width, channels) != (size, size, 1):
        return [
            *faults,
            f"has {width}×{height} pixels of {channels} channels, not {size}×{size} of one",
        ], None
    if not np.isin(png.pixels, (0, 255)).all():
        return [*faults, "is not a mask of 0 (hidden) and 255 (visible)"], None
    if not faults:
        faults += byte_faults(data, png.pixels, Writing(RUNS)) or []
    mask = png.pixels[..., 0] // np.uint8(255)
    if int(mask.sum()) != shown:
        faults.append(f"shows {int(mask.sum())} pixels, the manifest says {shown}")
    return faults, mask


def read_mask(data: bytes, size: int, shown: int, what: str) -> NDArray[np.uint8]:
    """Read the mask of an image, for training: packed bits, row by row.

    Args:
        data: of the file.
        size: side of the images in pixels.
        shown: pixels that it must show.
        what: to call it in the message.

    Returns:
        `[ceil(size²/8)]` uint8, see `pack_masks`.

    Raises:
        ValueError: it is no mask of this size, or shows another number of pixels than the manifest says.
    """
    png = read_png(data)
    if png.pixels is None or png.faults or png.pixels.shape != (size, size, 1):
        raise ValueError(f"{what} is no mask of {size}×{size} pixels")
    if (found := np.count_nonzero(png.pixels)) != shown or png.pixels.sum(dtype=np.int64) != 255 * shown:
        raise ValueError(f"{what} shows {found} pixels, or some in part; the manifest says {shown}")
    bits: NDArray[np.uint8] = np.packbits(png.pixels.reshape(-1) != 0)
    return bits


def read_codes(read: Callable[[str], bytes], masks: Masks, size: int) -> Tensor:
    """Read the codebook.

    Args:
        read: gives the bytes of a file by its path in the release.
        masks: what the manifest says.
        size: side of the images in pixels.

    Returns:
        `[C,1,size,size]` float32, 1 = visible.

    Raises:
        ValueError: a file is no such mask.
    """
    found = []
    for number in range(masks.codes):
        name = code_file(number)
        faults, mask = mask_faults(read(name), size, masks.shown)
        if faults or mask is None:
            raise ValueError(f"{name} {faults[0]}")
        found.append(torch.from_numpy(mask).float())
    return torch.stack(found)[:, None]
