"""Which device a command computes on."""

from __future__ import annotations

import logging

import torch

from lightning_app.runs import unsupported_gpu

log = logging.getLogger("faceveil")


def choose_device(device: str) -> torch.device:
    """Find the device a user asked for, and warn of a GPU that torch has no code for.

    Args:
        device: `cpu`, `cuda`, `cuda:1`; `auto` takes the GPU where there is one.

    Raises:
        ValueError: it cannot be used.
    """
    wanted = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(wanted)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device: {device!r} cannot be used ({str(error).splitlines()[0]}); try cpu"
        ) from error
    if found.type == "cuda" and (warning := unsupported_gpu()):
        log.warning(warning)
    return found
