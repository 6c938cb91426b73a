"""How an image set is veiled: one small class each, batch in, batch out, all of one interface."""

from lightning_app.desensitize.base import Desensitizer
from lightning_app.desensitize.blur import CentreBlur, GaussianBlur
from lightning_app.desensitize.centre import CentreBlock
from lightning_app.desensitize.identity import Identity
from lightning_app.desensitize.mask import MaskOut
from lightning_app.desensitize.mosaic import Mosaic

__all__ = ["CentreBlock", "CentreBlur", "Desensitizer", "GaussianBlur", "Identity", "MaskOut", "Mosaic"]
