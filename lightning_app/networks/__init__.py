"""Plain networks: backbones, heads, the Feature Selection Masknet, nothing of Lightning."""

from lightning_app.networks.backbones import Backbone
from lightning_app.networks.backbones.resnet import INSERTION_POINTS
from lightning_app.networks.fsm import FSM
from lightning_app.networks.heads import Head, SoftmaxHead

__all__ = ["FSM", "INSERTION_POINTS", "Backbone", "Head", "SoftmaxHead"]
