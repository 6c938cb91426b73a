"""AlexNet's file of LPIPS, laid out as the published one, of weights that nobody trained."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_app.metrics import lpips as module

SHAPES = ((11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256))


def arrays() -> dict[str, Any]:
    random = np.random.default_rng(0)
    content: dict[str, Any] = {"AlexNet_0": {}}
    for number, (kernel, taken, given) in enumerate(SHAPES):
        scale = (2 / (kernel * kernel * taken)) ** 0.5
        content["AlexNet_0"][f"Conv_{number}"] = {
            "kernel": (random.normal(size=(kernel, kernel, taken, given)) * scale).astype(np.float32),
            "bias": random.normal(size=given).astype(np.float32) * np.float32(0.1),
        }
        head = random.uniform(size=(1, 1, given, 1)).astype(np.float32)
        content[f"NetLinLayer_{number}"] = {"Conv_0": {"kernel": head}}
    return content


def write_alexnet(file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the file, and let it pass for the published one, in its place.

    Args:
        file: where to.
        monkeypatch: of the test.
    """
    file.write_bytes(pickle.dumps(arrays()))
    monkeypatch.setattr(module, "_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setattr(module, "weights_file", lambda: file)
    return file
