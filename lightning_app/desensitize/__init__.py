"""How an image set is desensitized: one small class each, batch in, batch out, all of one interface."""

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
from lightning_app.desensitize.mask_each import MaskEach
from lightning_app.desensitize.mixing import InstaHide, MixUp
from lightning_app.desensitize.mosaic import Mosaic
from lightning_app.desensitize.ours import OURS, described, is_clean
from lightning_app.desensitize.part import Part
from lightning_app.desensitize.precomputed import Precomputed
from lightning_app.desensitize.random_mixing import RandomMixUp, mixer_of

__all__ = [
    "DCTDP", "OURS", "BlockDCT", "CentreBlock", "CentreBlur", "Chain", "Desensitizer", "EigenfaceNoise",
    "FrequencyMask", "GaussianBlur", "Identity", "InstaHide", "LaplaceNoise", "LearnedMask", "MaskEach", "MaskOut",
    "MixUp", "Mosaic", "Part", "Precomputed", "RandomMixUp", "described", "is_clean", "mixer_of",
]  # fmt: skip
