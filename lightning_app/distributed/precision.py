"""In which precision a command computes, and whether the device has it."""

from __future__ import annotations

import logging
from typing import Literal

import torch

log = logging.getLogger("faceveil")
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
_AMP = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Make the context in which a network runs as it does in a `fit` of that precision.

    Args:
        precision: as of Lightning's trainer; `bf16-mixed` and `16-mixed` compute under autocast, others as they are.
        device: where the network is.
    """
    return torch.autocast(device.type, _AMP.get(precision), enabled=precision in _AMP)


def computes_in(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether a device computes in bfloat16 or float16 itself; what does not is emulated, and slow.

    A CPU does where oneDNN has kernels for it, an NVIDIA GPU in bfloat16 from compute capability 8.0 on (A100). Of
    other devices nothing is known, and True is returned.

    Args:
        dtype: `torch.bfloat16` or `torch.float16`; of others True is returned.
        device: that computes.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        return True
    if device.type == "cuda":
        old = torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0)
        return dtype != torch.bfloat16 or not old
    if device.type != "cpu":
        return True
    kind = "bf16" if dtype == torch.bfloat16 else "fp16"
    known = getattr(torch.ops.mkldnn, f"_is_mkldnn_{kind}_supported", None)  # no public name tells it
    return torch.backends.mkldnn.is_available() and known is not None and bool(known())


def warn_of_emulation(precision: str | int | None, device: torch.device, option: str) -> None:
    """Say in one line that a precision is emulated on this device; say nothing where it is not.

    Args:
        precision: as of Lightning's trainer; None is its default.
        device: that computes.
        option: of the command line that chooses it, such as `--trainer.precision`.
    """
    text = str(precision)
    dtype = torch.bfloat16 if "bf16" in text else torch.float16 if "16" in text else torch.float32
    if computes_in(dtype, device):
        return
    kind = str(dtype).removeprefix("torch.")
    if device.type == "cpu":
        said = f"this CPU has no {kind}, torch emulates it, several times slower than float32: give {option} 32-true"
    else:
        name = torch.cuda.get_device_name(device)
        said = f"{name} has no {kind}, torch emulates it, slower than float16: give {option} 16-mixed"
    log.warning("%s %s: %s", option, text, said)
