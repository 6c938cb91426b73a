"""Which device a command computes on."""

from __future__ import annotations

import logging

import torch

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


def unsupported_gpu() -> str | None:
    """Return one line where a GPU is there that the installed torch has no code for; None where all is well."""
    if not torch.cuda.is_available():
        return None
    built = torch.cuda.get_arch_list()
    major, minor = torch.cuda.get_device_capability()
    arch = f"sm_{major}{minor}"
    same_major = any(
        a.startswith(f"sm_{major}") and int(a[len(f"sm_{major}") :] or 0) <= minor for a in built
    )
    if not built or same_major or f"compute_{major}{minor}" in built:
        return None
    return (
        f"{torch.cuda.get_device_name()} ({arch}) is not supported by torch {torch.__version__} (built for "
        f"{', '.join(built)}): install a build with {arch} (see docs/gpus.md), or use --trainer.accelerator cpu"
    )
