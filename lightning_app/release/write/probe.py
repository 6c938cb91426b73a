"""The noise probe: what lies under the mask is replaced by noise, and the same image must come.

What is released is made of pixels whose hidden part *is* noise, by a copy of the desensitizer that never gets
the hidden pixels themselves. Another one gets the raw pixels, for comparison alone. So code that leaks is found
where the two differ, and code that draws, counts or keeps what it saw has nothing hidden to leak.
"""

from __future__ import annotations

import copy
import os

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

from lightning_app.desensitize import Desensitizer


def under_noise(raw: Tensor, hidden: Tensor) -> Tensor:
    """Replace hidden pixels by noise that no desensitizer can foresee.

    The noise is the key stream of AES under a key that the operating system draws for this call.

    Args:
        raw: uint8 `[B,C,H,W]`.
        hidden: uint8 `[1,1,H,W]`, or `[B,1,H,W]` where every image has a mask of its own; 255 where hidden, else 0.

    Returns:
        The same shape; visible pixels are those of `raw`.
    """
    stream = Cipher(algorithms.AES(os.urandom(16)), modes.CTR(os.urandom(16))).encryptor()
    noise = torch.frombuffer(bytearray(stream.update(bytes(raw.numel()))), dtype=torch.uint8)
    return raw ^ ((raw ^ noise.view(raw.shape)) & hidden)  # torch.where takes ten times as long


def copy_of(desensitizer: Desensitizer) -> Desensitizer:
    """Copy a desensitizer with all it holds: what the one keeps, the other does not see.

    Args:
        desensitizer: to be copied.

    Raises:
        ValueError: it holds what cannot be copied, such as a lock or an open file.
    """
    try:
        return copy.deepcopy(desensitizer)
    except Exception as error:  # any, for it may hold anything
        words = (str(error) or repr(error)).splitlines()[0]
        raise ValueError(
            f"desensitizer: {type(desensitizer).__name__} cannot be copied ({words}), and the noise probe needs two of "
            "it: keep locks, open files and the like out of its attributes"
        ) from error
