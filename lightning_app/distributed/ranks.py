"""What the processes of one run have to have in common, and how they find out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import distributed, nn


def several() -> bool:
    """Return whether this process is one of several ranks that have met."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def agree(what: str, facts: Callable[[], Mapping[str, object]]) -> None:
    """Refuse to go on where the ranks do not have the same, such as another copy of the data on another node.

    Every rank calls this: one collective of a few bytes, none in a single process.

    Args:
        what: the facts are of, as the message calls it.
        facts: gives name → metric or hash, the same names on every rank; not called in a single process.

    Raises:
        ValueError: on every rank, naming the ranks that differ from rank 0 and the metrics they differ in.
    """
    if not several():
        return
    everyone: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, dict(facts()))
    others = [rank for rank, theirs in enumerate(everyone) if theirs != everyone[0]]
    if not others:
        return
    names = [name for name in everyone[0] if any(theirs[name] != everyone[0][name] for theirs in everyone)]
    said = "; ".join(
        f"rank {rank}: " + ", ".join(f"{name} {everyone[rank][name]}" for name in names)
        for rank in (0, *others[:7])
    )
    raise ValueError(
        f"the ranks do not have the same {what} ({said}{'; …' if len(others) > 7 else ''}): give every node the same "
        "copy and the same config"
    )


def union(numbers: set[int]) -> set[int]:
    """Unite the ranks' numbers; every rank calls this.

    Args:
        numbers: of this rank.
    """
    if not several():
        return numbers
    everyone: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, sorted(numbers))
    return set().union(*everyone)


@torch.no_grad()
def share_buffers(module: nn.Module) -> None:
    """Give every rank the buffers of rank 0; every rank calls this, one collective.

    In training each rank's batch norms average over its own images. What is measured has to be measured on
    the network that is saved, which is rank 0's.

    Args:
        module: the unwrapped network; its floating-point buffers are overwritten.
    """
    own = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if not several() or not own:
        return
    flat = torch.cat([buffer.flatten() for buffer in own])
    distributed.broadcast(flat, src=0)
    for buffer, part in zip(own, flat.split([buffer.numel() for buffer in own]), strict=True):
        buffer.copy_(part.view_as(buffer))
