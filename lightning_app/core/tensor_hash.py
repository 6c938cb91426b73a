"""The one hash of tensors; what is said of each before its bytes differs, since hashes stand in files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def tensors_hash(tensors: Iterable[tuple[str, Tensor]], said: Callable[[str, Tensor], str]) -> str:
    """Return the SHA-256 of tensors, in hexadecimal: for each what is said of it, then its bytes.

    Args:
        tensors: name and value, on any device, in the order in which they count.
        said: makes the text of a name and a value, such as its type and shape.
    """
    digest = hashlib.sha256()
    for name, value in tensors:
        digest.update(said(name, value).encode())
        digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
