"""Plain networks: backbones, heads, the Feature Selection Masknet, nothing of Lightning."""

from lightning_app.networks.backbones import Backbone
from lightning_app.networks.backbones.iresnet import IR50, IRSE50, iresnet50, irse50
from lightning_app.networks.backbones.resnet import INSERTION_POINTS
from lightning_app.networks.fsm import FSM
from lightning_app.networks.heads import Head, SoftmaxHead
from lightning_app.networks.margin_heads import ArcFaceHead, CosFaceHead
from lightning_app.networks.unet import UNet

__all__ = [
    "FSM", "INSERTION_POINTS", "IR50", "IRSE50", "ArcFaceHead", "Backbone", "CosFaceHead", "Head", "SoftmaxHead",
    "UNet", "iresnet50", "irse50",
]  # fmt: skip
