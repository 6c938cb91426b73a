"""Masks that a search takes in place of drawn ones, or beside them: those of a folder, that of a masker."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from datamodules.face import FaceDataModule
from lightning_app.desensitize import LearnedMask
from lightning_app.masks import MaskLevels
from lightning_app.masks.levels import Hidden
from lightning_app.studies.faces import drawn_numbers

log = logging.getLogger("faceveil")
_GIVEN = 313  # salt of the draw of masks of a given set


@dataclass(frozen=True)
class GivenMasks:
    """A folder of masks to search in, in place of drawn candidates (paper, 4.2, Table 2).

    Attributes:
        folder: PNG masks of any size, at any depth, see `MaskLevels`.
        level: search only masks with low < mask ratio <= high; None takes them all.
        hidden: the colour that hides, `white` in NVIDIA's test masks.
        count: how many, drawn from the level by the seed; None takes all.
    """

    folder: str
    level: tuple[float, float] | None = None
    hidden: Hidden = "white"
    count: int | None = 2000


@dataclass(frozen=True)
class MaskPool:
    """The masks of a folder that are searched among.

    Attributes:
        given: the folder, and what of it.
        files: paths relative to it, one for each mask.
        masks: `[N,1,H,W]`.
    """

    given: GivenMasks
    files: list[str]
    masks: Tensor

    def facts(self, number: int) -> dict[str, Any]:
        """Return what is said of the pool and of the mask that was found.

        Args:
            number: of the mask.
        """
        name = Path(self.given.folder).resolve().name  # no path: the mask leaves the house
        level = self.given.level and list(self.given.level)
        return {"folder": name, "level": level, "file": self.files[number]}


def given_pool(given: GivenMasks, size: int, seed: int) -> MaskPool:
    """Read the masks of a folder, or so many of them.

    Args:
        given: the folder, and what of it.
        size: side of the images.
        seed: of the draw.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no mask of that level, or not one is asked for.
    """
    levels = None if given.level is None else [given.level]
    found = MaskLevels(given.folder, size, levels=levels, hidden=given.hidden)
    count = len(found) if given.count is None else min(given.count, len(found))
    numbers = drawn_numbers(len(found), count, _GIVEN, seed, "given.count").sort().values
    return MaskPool(given, [found.files[number] for number in numbers.tolist()], found.masks(numbers))


def masker_mask(checkpoint: str, data: FaceDataModule, hidden: float) -> LearnedMask:
    """Read the population mask of a masker, which must not have learnt from the images that score candidates.

    Args:
        checkpoint: of the masker, or its run folder.
        data: the image set, set up for `fit`.
        hidden: the mask ratio.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is no masker's, or one's that held out other images.
    """
    made = LearnedMask(checkpoint, share=1 - hidden)
    made.prepare((data.size, data.size))
    split = made.data.get("split") or {}
    if "hash" in split:
        data.check_split(split, f"from_masker {checkpoint}")
    else:
        log.warning(
            "%s does not tell which images its masker held out: it may have learnt from these.", checkpoint
        )
    return made
