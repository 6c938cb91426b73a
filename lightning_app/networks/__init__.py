"""Plain networks: the backbone, the Feature Selection Masknet, nothing of Lightning."""

from lightning_app.networks.backbone import INSERTION_POINTS, Backbone
from lightning_app.networks.fsm import FSM

__all__ = ["FSM", "INSERTION_POINTS", "Backbone"]
