"""A trained recogniser for others to run: an ONNX graph, weights, the mask and a card that says what they are."""

from lightning_app.export.graph import Agreement, Deployed, compare, require, to_onnx
from lightning_app.export.model_input import ModelInput, find_model_input
from lightning_app.export.weights import to_safetensors

__all__ = [
    "Agreement",
    "Deployed",
    "ModelInput",
    "compare",
    "find_model_input",
    "require",
    "to_onnx",
    "to_safetensors",
]
