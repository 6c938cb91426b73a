"""What others ask of masks that a trained masker makes: a release holds them, an audit has them made again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import Self

from lightning_app.desensitize.base import Desensitizer
from lightning_app.desensitize.mask_kinds import Kind


class MaskEach(Desensitizer, ABC):
    """Masks that a trained masker makes: one for all images, one of a few, or one for each.

    A release of masks, one an image, is made of our own classes of this kind that promise `explains_masks`. Its audit
    runs the masker again by `with_masker`, and holds each mask against what `possible` and `may_choose` say.

    Attributes:
        kind: what its masks may tell of the pixels under them, see `mask_kinds.MASK_KINDS`.
        share: share of the pixels that are shown.
        size: (height, width) of the images in pixels; None before `prepare`.
        mask: `[M,1,H,W]` float32, the masks that are made before an image is seen; None where there are none.
    """

    kind: Kind
    share: float
    size: tuple[int, int] | None
    mask: Tensor | None

    @abstractmethod
    def possible(self, image: Tensor, within: Tensor | None = None) -> Iterator[Tensor]:
        """Yield what the masker may make of one image on another machine, the likeliest first. Prepared.

        Args:
            image: `[1,3,H,W]` float in [0,1].
            within: `[1,1,H,W]`, the mask that it must be; by default any.

        Returns:
            Masks `[1,1,H,W]` float32; of several public masks the soft one that `may_choose` is asked with.
        """

    @abstractmethod
    def may_choose(self, soft: Tensor, index: Tensor, code: int, slack: float) -> bool:
        """Return whether one image may get this public mask, were its worth rounded otherwise.

        Args:
            soft: `[1,1,H,W]`, of `possible`.
            index: `[1]` int64, the image's number.
            code: number of the public mask.
            slack: how far a worth, or a probability, may be off.
        """

    @classmethod
    @abstractmethod
    def with_masker(
        cls, description: Mapping[str, Any], checkpoint: str | Path, key: str | Path | None = None
    ) -> Self:
        """Make it of its description and its masker's checkpoint, and hold the one against the other; prepared.

        Args:
            description: `method` of a manifest.
            checkpoint: of the masker.
            key: the owner's key file, where something was drawn from it.

        Raises:
            FileNotFoundError, ValueError: it is no masker's, or another one than is described.
        """

    @classmethod
    @abstractmethod
    def one_mask(cls, description: Mapping[str, Any], checkpoint: str | Path, size: int) -> Tensor | None:
        """Make the one mask of all images again of its masker's checkpoint, `[1,1,H,W]` float32.

        Args:
            description: what `describe` gave, which may be somebody else's.
            checkpoint: of the masker.
            size: side of the images in pixels.

        Raises:
            FileNotFoundError, ValueError: it is no masker's, or one for other images.
        """
