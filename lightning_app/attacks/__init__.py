"""How somebody would try to see through a desensitizer: one small class each, all of one interface."""

from lightning_app.attacks.base import Attack
from lightning_app.attacks.least_squares import LeastSquares
from lightning_app.attacks.link import LinkAttack
from lightning_app.attacks.mean_face import MeanFace
from lightning_app.attacks.opencv import NavierStokes, Telea
from lightning_app.attacks.trained import TrainedRestorer
from lightning_app.attacks.unmix import AbsoluteValues, UnMix
from lightning_app.attacks.unshuffle import Unshuffle

__all__ = ["AbsoluteValues", "Attack", "LeastSquares", "LinkAttack", "MeanFace", "NavierStokes", "Telea",
           "TrainedRestorer", "UnMix", "Unshuffle"]  # fmt: skip
