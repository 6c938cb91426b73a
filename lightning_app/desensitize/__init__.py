"""How an image set is desensitized: one small class each, batch in, batch out, all of one interface."""

from lightning_app.desensitize.base import Desensitizer
from lightning_app.desensitize.block_dct import BlockDCT
from lightning_app.desensitize.blur import CentreBlur, GaussianBlur
from lightning_app.desensitize.centre import CentreBlock
from lightning_app.desensitize.chain import Chain
from lightning_app.desensitize.frequency import FrequencyMask
from lightning_app.desensitize.identity import Identity
from lightning_app.desensitize.learned_mask import LearnedMask
from lightning_app.desensitize.mask import MaskOut
from lightning_app.desensitize.mixing import InstaHide, MixUp
from lightning_app.desensitize.mosaic import Mosaic
from lightning_app.desensitize.ours import OURS, described, is_clean

__all__ = [
    "OURS", "BlockDCT", "CentreBlock", "CentreBlur", "Chain", "Desensitizer", "FrequencyMask", "GaussianBlur",
    "Identity", "InstaHide", "LearnedMask", "MaskOut", "MixUp", "Mosaic", "described", "is_clean",
]  # fmt: skip
