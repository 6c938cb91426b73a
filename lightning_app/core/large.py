"""Large tensors that are made anew for every batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def empty(*shape: int, device: torch.device) -> Tensor:
    """Return a float32 tensor of the shape, its values undefined.

    On a CPU NumPy allocates it: NumPy asks Linux for pages of 2 MB, PyTorch takes pages of 4 KB, and of a hundred
    megabytes the first touch of so many takes longer than what is written to them.

    Args:
        shape: its sides.
        device: where it lies.
    """
    if device.type == "cpu":
        return torch.from_numpy(np.empty(shape, np.float32))
    return torch.empty(shape, device=device)
