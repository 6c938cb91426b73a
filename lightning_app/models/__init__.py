"""LightningModules, one per system of the paper and more."""

from lightning_app.models.adversarial_masker import AdversarialMasker
from lightning_app.models.checkpoints import load_recogniser
from lightning_app.models.inpainter import Inpainter
from lightning_app.models.known import MODELS
from lightning_app.models.others import LOADERS
from lightning_app.models.resnet import ResNet, ResNetMask
from lightning_app.models.resnet_fsm import ResNetFSM
from lightning_app.models.resnet_partial import ResNetPartial

__all__ = ["AdversarialMasker", "Inpainter", "ResNet", "ResNetFSM", "ResNetMask", "ResNetPartial"]

MODELS |= {
    kind.__name__: kind
    for kind in (AdversarialMasker, Inpainter, ResNet, ResNetFSM, ResNetMask, ResNetPartial)
}
LOADERS[:] = [load_recogniser]
