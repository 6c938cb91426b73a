"""Hiding pixels under masks: one for the whole set, one per batch, or one per image."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import Self

from lightning_app.core import draws
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.plain import Schema, is_count
from lightning_app.desensitize.base import Desensitizer
from lightning_app.desensitize.centre import mask_entries
from lightning_app.desensitize.mask_history import chosen_entries, drawn_entries
from lightning_app.masks.bits import Size, as_size, pack_masks, size_text, unpack_masks
from lightning_app.masks.freeform import Brush, check_ratio, freeform_masks
from lightning_app.masks.guard import guarded
from lightning_app.masks.io import bits_hash, bits_ratio, draw_hint, load_mask
from lightning_app.masks.levels import Hidden, Level, MaskLevels, find_masks

_SALT = 0x6D61736B  # "mask": names the draw, so that others with the same seed differ
_SOURCES = ("mask", "folder", "freeform")
_CHUNK = 256  # free-form masks drawn and packed at a time
_MOST = 4096  # of a brush's settings in somebody else's file, in vertices and in pixels of a 256×256 image
_MUCH = 0.05  # a guard that hides so much more is told
log = logging.getLogger("faceveil")


class MaskOut(Desensitizer):
    """Multiply images by masks: hidden pixels are exactly 0, visible ones stay as they are (x̃ = x ⊙ m).

    The masks come from one file, a folder of foreign masks, or the free-form generator; give exactly one of
    `mask`, `folder`, `freeform`. A single mask is shared by all images. Of several, one is drawn per batch
    or per image: per batch as a function of (seed, step), per image of (seed, epoch, index).

    Outside training every image has its own mask whatever `draw` says, as a function of (seed, epoch,
    index), so that a validation does not depend on the batch size or on the order of images. Outside
    training means: the module is in `eval()`, or `forward` is given no draw key.

    Args:
        mask: a mask file, a PNG of 0 (hidden) and 255 (visible).
        folder: a folder of PNG masks of any size, see `MaskLevels`.
        freeform: the range (low, high) of mask ratios of free-form masks, such as [0.74, 0.78].
        draw: one mask per `batch` or per `image` while training.
        levels: use only masks of the folder with low < mask ratio <= high for one of these (low, high).
        hidden: the colour that hides in masks of a folder: `white` in NVIDIA's test masks.
        count: how many free-form masks to draw; 1 is one mask for the whole set.
        seed: free-form masks are a function of it.
        brush: the five hyper-parameters of free-form masks, and which way strokes count.
        guard: hide so many more pixels on the visible side of the mask's edge, where compressed sources let
            hidden pixels ring; see `lightning_app.masks.guarded`. The guarded mask is then the mask, with its
            own hash and mask ratio; `levels` and `freeform` speak of masks before it.
        size: side or (height, width) of the images in pixels. Left out: a file's own size; for a folder or
            free-form masks, the size of the first batch.

    Raises:
        FileNotFoundError: if the file or folder is not there.
        ValueError: if not exactly one source is given, an argument is out of range, or the masks do not fit
            the images; see also `load_mask`, `MaskLevels`, `freeform_masks`.

    Source: On Mask-based Image Set Desensitization with Recognition Support, section 3.1; levels: section
    4.2.
    """

    in_words = (
        "Pixels under a mask are painted black, and all others stay as they are: who looks sees parts of a face, "
        "sharp."
    )
    has_mask = True
    hides_only = True
    mask: Tensor | None  # [1,1,H,W] float32, where there is one mask
    bits: Tensor | None  # [N, ceil(H·W/8)] uint8, where there are several

    def __init__(
        self,
        mask: str | Path | None = None,
        folder: str | Path | None = None,
        freeform: tuple[float, float] | None = None,
        draw: Literal["batch", "image"] = "batch",
        levels: list[Level] | None = None,
        hidden: Hidden = "white",
        count: int = 1,
        seed: int = 0,
        brush: Brush | None = None,
        size: Size | None = None,
        guard: int = 0,
    ) -> None:
        super().__init__()
        given = [
            name for name, value in zip(_SOURCES, (mask, folder, freeform), strict=True) if value is not None
        ]
        if len(given) != 1:
            raise ValueError(
                f"MaskOut: give exactly one of mask, folder and freeform, not {', '.join(given) or 'none'}"
            )
        if draw not in ("batch", "image"):
            raise ValueError(f"draw: {draw!r} is neither 'batch' nor 'image'")
        if folder is None and levels is not None:
            raise ValueError(f"levels: choose among the masks of a folder, but {given[0]} was given")
        if folder is not None:
            find_masks(Path(folder))  # without a size they are read with the first batch: too late for a typo
        if count < 1:
            raise ValueError(f"count: {count} is not a positive number of masks")
        if guard < 0:
            raise ValueError(f"guard: {guard} is below 0; give a number of pixels")
        self.source, self.draw, self.guard = given[0], draw, guard
        self.path = Path(mask or folder or "")
        self.freeform = None if freeform is None else check_ratio(freeform, "freeform")
        self.levels, self.hidden = levels, hidden
        self.count, self.seed, self.brush = count, seed, brush or Brush()
        self.size: tuple[int, int] | None = None
        self.register_buffer("mask", None, persistent=False)
        self.register_buffer("bits", None, persistent=False)
        self._hash, self._ratios = "", torch.empty(0)
        if mask is not None or size is not None:
            self.prepare(None if size is None else as_size(size))

    def prepare(self, size: tuple[int, int] | None) -> None:
        """Read or draw the masks for images of this size, or, where that is done, check that they fit.

        `forward` calls it with every batch; call it earlier to have errors early.

        Args:
            size: (height, width) of the images; None, for a mask file alone, is the file's own.

        Raises:
            ValueError: if the masks have another size; see also the class.
        """
        if self.size is not None:
            if size is not None and size != self.size:
                raise ValueError(self._misfit(size))
            return
        if self.source == "mask":
            one = load_mask(self.path, size)
            self._keep(pack_masks(one), (one.shape[-2], one.shape[-1]))
        elif size is None:
            raise ValueError(
                f"size: say for images of which size the masks of {self.source} are, such as 112"
            )
        elif self.source == "folder":
            self._keep(MaskLevels(self.path, size, self.levels, self.hidden).bits, size)
        else:
            generator = torch.Generator().manual_seed(self.seed)
            chunks = [min(_CHUNK, self.count - done) for done in range(0, self.count, _CHUNK)]
            drawn = [
                freeform_masks(n, size, self.freeform, **asdict(self.brush), generator=generator)
                for n in chunks
            ]
            self._keep(torch.cat([pack_masks(masks) for masks in drawn]), size)

    @property
    def shared_mask(self) -> Tensor | None:
        """The mask `[1,1,H,W]`, where there is one and it is read or drawn."""
        return self.mask

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        """Hide pixels of a batch.

        Args:
            batch: `image [B,3,H,W]` float in [0,1], `index [B]`; other entries are passed on.
            draw_key: what the draws are a function of; None, as in `eval()`, draws per image.

        Returns:
            A new dict: `image` with hidden pixels 0, `mask` `[1,1,H,W]` with `mask_index` of zeros; where every
            image draws its own, `[M,1,H,W]` with `mask_index`: all M masks there are, or B of them.

        Raises:
            ValueError: if masks and images differ in size; see also the class.
        """
        image = batch["image"]
        # the first batch may be a validation's, but the masks serve training too
        with torch.inference_mode(False):
            self.prepare((image.shape[-2], image.shape[-1]))
            kept = self.mask if self.bits is None else self.bits
            if kept is not None and kept.device != image.device:
                self.to(image.device)
        mask, which = self._draw(batch["index"], draw_key, image.device)
        desensitized = batch.copy()
        desensitized["image"] = image * (mask if len(mask) == 1 else mask.index_select(0, which))
        desensitized["mask"], desensitized["mask_index"] = mask, which
        return desensitized

    def describe(self) -> dict[str, object]:
        """Return the method, where its masks come from and, once they are read or drawn, hash and mask ratio.

        Of several masks, `mask_ratio` is the mean and `mask_ratio_range` the lowest and highest. File and
        folder are given by name only, without the path to them.
        """
        description: dict[str, object] = {"method": type(self).__name__}
        if self.freeform is None:
            description[self.source] = self.path.name
        else:
            description |= {"freeform": list(self.freeform), "count": self.count, "seed": self.seed}
            description |= {"brush": asdict(self.brush)}
        if self.source == "folder":
            description |= {"levels": None if self.levels is None else [list(level) for level in self.levels]}
            description |= {"hidden": self.hidden}
        if self.source != "mask":
            description["draw"] = self.draw
        if self.guard:  # left out otherwise, as in checkpoints from before there was one
            description["guard"] = self.guard
        if self.size is not None:
            description |= {"size": list(self.size), "masks": len(self._ratios), "mask_hash": self._hash}
            description["mask_ratio"] = float(self._ratios.mean())
            if len(self._ratios) > 1:
                description["mask_ratio_range"] = [float(self._ratios.min()), float(self._ratios.max())]
        return description

    @classmethod
    def from_description(cls, description: Mapping[str, Any], mask: str | Path | None = None) -> Self:
        """Make it of its free-form masks' description, or of the file of its one mask and its guard.

        A file may hold the mask before the guard or after it, as a release's does: its hash tells.
        """
        guard = description.get("guard", 0)
        if mask is not None:
            made, wanted = cls(mask=mask), description.get("mask_hash")
            if wanted is not None and guard and made._hash != wanted:
                made = cls(mask=mask, guard=guard)
            if wanted is not None and made._hash != wanted:
                raise ValueError(f"{mask} is not the mask described: its hash is {made._hash[:12]}")
            return made
        if cls.needs_file(description):
            raise ValueError("its masks came from files: give them, the description alone is not enough")
        brush = Brush(**description["brush"])
        # the description may be somebody else's: what it asks for is bounded before it is drawn
        if max(brush.max_vertex, brush.max_length, brush.max_brush_width) > _MOST:
            raise ValueError(f"its brush {description['brush']} is beyond all images")
        low, high = description["freeform"]
        return cls(
            freeform=(low, high), count=description.get("count", 1), seed=int(description["seed"]), brush=brush,
            draw=description.get("draw", "batch"), guard=guard,
        )  # fmt: skip

    @classmethod
    def needs_file(cls, description: Mapping[str, Any]) -> bool:
        """Return whether its masks came from files: free-form ones are drawn again."""
        return "freeform" not in description

    @classmethod
    def entries(cls, size: int, version: int) -> list[Schema]:
        """List what a manifest may say of it: what its mask is; version 1 said where it came from, too."""
        one: Schema = {
            **mask_entries(size),
            "guard": (lambda v: is_count(v, 1, size), f"a number of pixels from 1 to {size}"),
            "masks": (lambda v: is_count(v, 1, 1), "1"),
        }
        return [one] if version > 1 else [one, {**one, **drawn_entries()}, {**one, **chosen_entries()}]

    def _keep(self, bits: Tensor, size: tuple[int, int]) -> None:
        bits = self._guarded(bits, size)
        self.size, self._hash, self._ratios = size, bits_hash(bits, size), bits_ratio(bits, size)
        if len(bits) == 1:
            self.mask = unpack_masks(bits, size)
        else:
            self.bits = bits

    def _guarded(self, bits: Tensor, size: tuple[int, int]) -> Tensor:
        if not self.guard:
            return bits
        opened = (unpack_masks(part, size) for part in bits.split(_CHUNK))
        narrowed = torch.cat([pack_masks(guarded(masks, self.guard)) for masks in opened])
        before, after = (float(bits_ratio(one, size).mean()) for one in (bits, narrowed))
        gone = int((bits_ratio(narrowed, size) == 1).sum())
        if gone:
            which = (
                str(self.path) if self.source == "mask" else f"{gone} of {len(bits)} masks of {self.source}"
            )
            raise ValueError(
                f"guard: with {self.guard} more pixels hidden, {which} leaves no pixel visible; take a smaller guard, "
                "or a mask whose visible parts are wider"
            )
        if after - before > _MUCH:
            log.warning(
                "guard: %d more pixels hidden raise the mask ratio from %.3f to %.3f. If that is too much, draw "
                "a mask that hides less first (draw-mask --ratio), or take a smaller guard.",
                self.guard, before, after,
            )  # fmt: skip
        return narrowed

    def _draw(self, index: Tensor, draw_key: DrawKey | None, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the batch's masks `[M,1,H,W]` and which lies on each image `[B]`, not waiting for the device."""
        shared = torch.zeros(len(index), dtype=torch.int64, device=device)
        if self.bits is None:
            assert self.mask is not None, "prepare came before"
            return self.mask, shared
        assert self.size is not None
        now = draw_key or DrawKey()
        if self.draw == "batch" and self.training and draw_key is not None:
            counter = torch.zeros(1, dtype=torch.int64, device=device)
            choice = draws.integers(counter, len(self.bits), _SALT, now.seed, now.step)
            return unpack_masks(self.bits.index_select(0, choice), self.size), shared
        choice = draws.integers(index, len(self.bits), _SALT, now.seed, now.epoch)
        if len(self.bits) < len(index):  # fewer masks than images: each once, however many images it lies on
            return unpack_masks(self.bits, self.size), choice
        return unpack_masks(self.bits.index_select(0, choice), self.size), torch.arange(
            len(index), device=device
        )

    def _misfit(self, size: tuple[int, int]) -> str:
        assert self.size is not None
        have, need = size_text(self.size), size_text(size)
        if self.source == "mask":
            return (
                f"mask {self.path} is {have}, the images are {need} (height×width): "
                f"{draw_hint(self.path, size)}, or set the images' size to the mask's"
            )
        return (
            f"size: the masks of {self.source} were made at {have}, the images are {need}; set size to theirs"
        )
