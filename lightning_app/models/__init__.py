"""LightningModules, one per system of the paper and more."""

from lightning_app.models.ada_mixup import AdaMixUp, AdaMixUpFSM
from lightning_app.models.adversarial_masker import AdversarialMasker
from lightning_app.models.cgan import CGAN
from lightning_app.models.checkpoints import read_recogniser
from lightning_app.models.dctdp import DCTDPRecogniser
from lightning_app.models.inpainter import Inpainter
from lightning_app.models.known import MODELS
from lightning_app.models.linker import Linker
from lightning_app.models.other_checkpoints import LOADERS
from lightning_app.models.resnet import ResNet, ResNetMask
from lightning_app.models.resnet_fsm import ResNetFSM
from lightning_app.models.resnet_partial import ResNetPartial
from lightning_app.models.restorer import UNetRestorer

__all__ = [
    "CGAN",
    "AdaMixUp",
    "AdaMixUpFSM",
    "AdversarialMasker",
    "DCTDPRecogniser",
    "Inpainter",
    "Linker",
    "ResNet",
    "ResNetFSM",
    "ResNetMask",
    "ResNetPartial",
    "UNetRestorer",
]

_OURS = (
    AdaMixUp, AdaMixUpFSM, AdversarialMasker, CGAN, DCTDPRecogniser, Inpainter, Linker, ResNet, ResNetFSM, ResNetMask,
    ResNetPartial, UNetRestorer,
)  # fmt: skip
MODELS |= {kind.__name__: kind for kind in _OURS}
LOADERS[:] = [read_recogniser]
