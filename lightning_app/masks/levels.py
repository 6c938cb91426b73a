"""A folder of foreign masks, such as NVIDIA's irregular ones, in levels by mask ratio."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from lightning_app.core.files import given_folder
from lightning_app.core.pixel_limit import check_pixels
from lightning_app.masks.bits import Array, Size, as_size, size_text, unpack_masks
from lightning_app.masks.freeform import check_ratio
from lightning_app.masks.io import DECODE_ERRORS

log = logging.getLogger(__name__)

Level = tuple[float, float]
Hidden = Literal["white", "black"]
Ratios = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

NVIDIA_LEVELS: tuple[Level, ...] = ((0.01, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5), (0.5, 0.6))
_GREY = 0.2  # share of pixels that may be neither dark nor bright: soft edges are, photographs are not


def level_name(level: Level) -> str:
    """Return what a level is called in folders and log keys, such as `0.4-0.5`.

    Args:
        level: (low, high) of the mask ratio.
    """
    return f"{level[0]:g}-{level[1]:g}"


class MaskLevels:
    """Masks of a folder, decoded once, resized, and kept as packed bits.

    Each PNG below the folder (any depth, in the order of its path; names that start with a dot are left out)
    is made grey, resized to `size` by the nearest pixel centre (pixel i of n takes ⌊(i + ½)·N/n⌋ of N) and
    thresholded at 128. The mask ratio is the one after resizing: what images will meet. A level (low, high)
    holds ratios with low < ratio <= high, as NVIDIA's paper writes them. Masks that hide everything or
    nothing are left out. How many masks each level has is logged in one line.

    Memory: one bit a pixel, 19 MB for 12,000 masks of 112×112, 75 MB at 224×224.

    Args:
        root: the folder.
        size: side or (height, width) of the images.
        levels: keep only masks in these; None keeps all.
        hidden: the colour that hides: white in NVIDIA's test masks (the 12,000), where 255 is a hole;
            its training masks are the other way round. A wrong choice shows in the counts logged: the test
            masks' ratios do not pass 0.6.
        edges: the levels the counts are logged and listed by.

    Attributes:
        root: the folder.
        files: `N` paths relative to root, in order.
        ratios: `[N]` float32 mask ratios.
        bits: `[N, ceil(H·W/8)]` uint8, see `pack_masks`.
        counts: masks found per level of `edges`, before `levels` chose among them.
        size: (height, width).

    Raises:
        FileNotFoundError: if there is no such folder, or no PNG in it.
        ValueError: if a file cannot be decoded or is no mask, if all masks are blank, or a chosen level has
            none: it lists the levels that have.

    Source: Liu et al., "Image Inpainting for Irregular Holes Using Partial Convolutions", ECCV 2018; levels
    as in the paper's section 4.1 and table 1.
    """

    def __init__(
        self,
        root: str | Path,
        size: Size,
        levels: Sequence[Level] | None = None,
        hidden: Hidden = "white",
        edges: Sequence[Level] = NVIDIA_LEVELS,
    ) -> None:
        self.root, self.size = given_folder(root), as_size(size)
        if hidden not in ("white", "black"):
            raise ValueError(f"hidden: {hidden!r} is neither 'white' nor 'black'")
        chosen = None if levels is None else [check_ratio(level, "levels") for level in levels]
        if chosen == []:
            raise ValueError("levels: is empty; name levels such as [[0.4, 0.5], [0.5, 0.6]] or leave it out")
        bounds = [check_ratio(edge, "edges") for edge in edges]
        paths = find_masks(self.root)
        with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:  # Pillow frees the GIL
            rows = list(pool.map(lambda path: _read(path, self.size, hidden), paths))
        ratios = np.array([ratio for _, ratio in rows])
        blank = (ratios == 0) | (ratios == 1)
        if blank.all():
            raise ValueError(f"{self.root}: each of its {len(paths)} masks hides everything or nothing")
        self.counts = {edge: int((_within(ratios, edge) & ~blank).sum()) for edge in bounds}
        self._log(ratios, blank)
        keep = ~blank
        if chosen is not None:
            inside = [_within(ratios, level) & ~blank for level in chosen]
            for level, members in zip(chosen, inside, strict=True):
                if not members.any():
                    raise ValueError(
                        f"levels: no mask in {self.root} has a mask ratio in {_name(level)}; there are "
                        f"{self._summary(ratios[~blank])}; if that looks inverted, set hidden to "
                        f"{'black' if hidden == 'white' else 'white'}"
                    )
            keep = np.any(inside, axis=0)
        self.files = [
            str(path.relative_to(self.root)) for path, kept in zip(paths, keep, strict=True) if kept
        ]
        self.ratios = torch.from_numpy(ratios[keep]).to(torch.float32)
        self.bits = torch.from_numpy(np.stack([rows[i][0] for i in np.flatnonzero(keep)]))

    def __len__(self) -> int:
        """Return how many masks there are."""
        return len(self.files)

    def masks(self, numbers: Tensor) -> Tensor:
        """Return chosen masks.

        Args:
            numbers: `[K]` int64 in [0, N), on the CPU.

        Returns:
            `[K,1,H,W]` float32, 1 = visible, 0 = hidden.
        """
        return unpack_masks(self.bits.index_select(0, numbers), self.size)

    def _summary(self, ratios: Ratios) -> str:
        parts = [f"{_name(edge)}: {count}" for edge, count in self.counts.items()]
        outside = len(ratios) - int(np.any([_within(ratios, edge) for edge in self.counts], axis=0).sum())
        if outside:
            parts.append(f"outside these: {outside}")
        return ", ".join(parts) + f" (ratios from {ratios.min():.3f} to {ratios.max():.3f})"

    def _log(self, ratios: Ratios, blank: Flags) -> None:
        left_out = f"; {int(blank.sum())} blank ones left out" if blank.any() else ""
        log.info(
            "%d masks in %s at %s by mask ratio: %s%s",
            len(ratios) - int(blank.sum()),
            self.root,
            size_text(self.size),
            self._summary(ratios[~blank]),
            left_out,
        )


def _name(level: Level) -> str:
    return f"{level[0]:g}–{level[1]:g}"


def _within(ratios: Ratios, level: Level) -> Flags:
    return np.asarray((ratios > level[0]) & (ratios <= level[1]))


def find_masks(root: Path) -> list[Path]:
    """Return the PNG files below a folder in the order of their paths, hidden files left out.

    Raises:
        FileNotFoundError: if there is no such folder, or no PNG in it.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"folder {root}: no such folder of masks; give one that holds PNG masks")
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() == ".png" and not p.name.startswith("."))
    if not paths:
        raise FileNotFoundError(f"folder {root}: holds no PNG masks, at any depth")
    return paths


def _nearest(new: int, old: int) -> npt.NDArray[np.int64]:
    # In whole numbers: OpenCV and Pillow settle ties (pixel 10 of 112 from 256) by their rounding errors, and
    # a mask's hash must not depend on that.
    return np.asarray((2 * np.arange(new) + 1) * old // (2 * new), dtype=np.int64)


def _read(path: Path, size: tuple[int, int], hidden: Hidden) -> tuple[Array, float]:
    """Return a mask's packed bits and its mask ratio."""
    try:
        with Image.open(path) as picture:
            check_pixels(picture)
            if picture.mode.startswith(("I", "F")):
                raise ValueError(f"mode {picture.mode}, more than 8 bits a pixel")
            grey: Array = np.asarray(picture.convert("L"), dtype=np.uint8)
    except DECODE_ERRORS as error:
        raise ValueError(f"mask {path} cannot be read ({error}); repair or remove it") from error
    pixels = grey[np.ix_(_nearest(size[0], grey.shape[0]), _nearest(size[1], grey.shape[1]))]
    between = float(np.mean((pixels > 63) & (pixels < 192)))
    if between > _GREY:
        raise ValueError(
            f"mask {path} is no mask: {between:.0%} of its pixels are neither dark nor bright; remove it, "
            "or give the folder that holds masks"
        )
    visible = (pixels < 128) if hidden == "white" else (pixels >= 128)
    return np.packbits(visible.reshape(-1)), (visible.size - int(np.count_nonzero(visible))) / visible.size
