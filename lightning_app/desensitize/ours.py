"""FaceVeil's own ways to desensitize, by the name that a description gives: others are only known by name."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_app.desensitize.base import Desensitizer
from lightning_app.desensitize.block_dct import BlockDCT
from lightning_app.desensitize.blur import CentreBlur, GaussianBlur
from lightning_app.desensitize.centre import CentreBlock
from lightning_app.desensitize.chain import Chain
from lightning_app.desensitize.dctdp import DCTDP
from lightning_app.desensitize.eigenface_noise import EigenfaceNoise
from lightning_app.desensitize.frequency import FrequencyMask
from lightning_app.desensitize.identity import Identity
from lightning_app.desensitize.laplace_noise import LaplaceNoise
from lightning_app.desensitize.learned_mask import LearnedMask
from lightning_app.desensitize.mask import MaskOut
from lightning_app.desensitize.mixing import InstaHide, MixUp
from lightning_app.desensitize.mosaic import Mosaic
from lightning_app.desensitize.precomputed import Precomputed
from lightning_app.desensitize.random_mixing import RandomMixUp

# what a description in somebody else's file may stand for; nothing is ever imported by it
OURS: Mapping[str, type[Desensitizer]] = {
    kind.__name__: kind
    for kind in (
        MaskOut,
        CentreBlock,
        CentreBlur,
        GaussianBlur,
        Identity,
        Mosaic,
        BlockDCT,
        FrequencyMask,
        MixUp,
        InstaHide,
        RandomMixUp,
        LaplaceNoise,
        EigenfaceNoise,
        DCTDP,
        LearnedMask,
        Precomputed,
        Chain,
    )
}
Chain.ours = OURS


def described(description: Mapping[str, object] | None) -> type[Desensitizer] | None:
    """Find the class of ours that a description is of; None where it is another's, or there is none.

    Args:
        description: what `Desensitizer.describe` gave, such as a checkpoint has it.
    """
    return None if description is None else OURS.get(str(description.get("method")))


def is_clean(description: Mapping[str, object] | None) -> bool:
    """Return whether a description is of a class of ours that changes nothing.

    Args:
        description: what `Desensitizer.describe` gave.
    """
    kind = described(description)
    return kind is not None and not kind.hides
