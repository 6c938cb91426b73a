"""LightningModules, one per system of the paper and more."""

from lightning_app.models.cgan import CGAN
from lightning_app.models.checkpoints import load_recogniser
from lightning_app.models.inpainter import Inpainter
from lightning_app.models.known import MODELS
from lightning_app.models.linker import Linker
from lightning_app.models.others import LOADERS
from lightning_app.models.resnet import ResNet, ResNetMask
from lightning_app.models.resnet_fsm import ResNetFSM
from lightning_app.models.resnet_partial import ResNetPartial
from lightning_app.models.restorer import UNetRestorer

__all__ = [
    "CGAN",
    "Inpainter",
    "Linker",
    "ResNet",
    "ResNetFSM",
    "ResNetMask",
    "ResNetPartial",
    "UNetRestorer",
]

MODELS |= {
    kind.__name__: kind
    for kind in (CGAN, Inpainter, Linker, ResNet, ResNetFSM, ResNetMask, ResNetPartial, UNetRestorer)
}
LOADERS[:] = [load_recogniser]
