"""Which of a model's weights travel, how they are put into a model, and their hash."""

from __future__ import annotations

import re

import torch
from torch import nn

from lightning_app.core.tensor_hash import tensors_hash
from lightning_app.federated.protocol.messages import Weights

HEAD = "head."
_RUN = re.compile(r"[0-9a-f]{16}")


def is_statistic(name: str) -> bool:
    """Return whether a weight is batch norm's running mean or variance, and no parameter."""
    return name.endswith((".running_mean", ".running_var"))


def travelling(module: nn.Module, private_heads: bool) -> Weights:
    """Copy what travels: parameters and batch-norm statistics, without the head where heads are private.

    Counters do not travel (`num_batches_tracked`): their mean means nothing, and noise that a privacy mod adds
    would spoil them; see `count_batches`.

    Args:
        module: the recogniser.
        private_heads: whether the head stays.

    Returns:
        Name → tensor on the CPU, contiguous, in the module's order, sharing no memory with it.
    """
    own = _chosen(module, private_heads)
    return {name: value.cpu().clone(memory_format=torch.contiguous_format) for name, value in own.items()}


def install(module: nn.Module, weights: Weights, private_heads: bool, whose: str) -> None:
    """Put weights that travelled into a model.

    Args:
        module: the recogniser.
        weights: all that travels, see `travelling`.
        private_heads: whether the head stayed.
        whose: for the message.

    Raises:
        ValueError: they are of another network.
    """
    wrong = unlike(weights, _chosen(module, private_heads))
    if wrong is not None:
        raise ValueError(f"{whose}: {wrong}; give all owners the same model")
    module.load_state_dict(weights, strict=False)


def unlike(weights: Weights, reference: Weights) -> str | None:
    """Return in which name, shape or type weights differ from others; None where they do not.

    Args:
        weights: to be checked.
        reference: what they should be like.
    """
    missing, extra = sorted(reference.keys() - weights.keys()), sorted(weights.keys() - reference.keys())
    if missing or extra:
        which = f"{missing[0]} is missing" if missing else f"{extra[0]} is not among ours"
        return f"other weights: {which} ({len(missing)} missing, {len(extra)} not ours)"
    for name, mine in reference.items():
        theirs = weights[name]
        if theirs.shape != mine.shape:
            return f"another shape: {name} is {tuple(theirs.shape)}, not {tuple(mine.shape)}"
        if theirs.dtype != mine.dtype:
            return f"another type: {name} is {theirs.dtype}, not {mine.dtype}"
    return None


def not_finite(weights: Weights) -> str | None:
    """Return which weights are NaN or infinite; None where none is.

    Args:
        weights: to be checked.
    """
    for name, there in weights.items():
        if not bool(torch.isfinite(there).all()):
            return f"{int((~torch.isfinite(there)).sum())} values of {name} are NaN or infinite"
    return None


@torch.no_grad()
def count_batches(module: nn.Module, batches: int) -> None:
    """Add to batch norm's counters, which do not travel, the batches of the round's busiest client.

    They do not enter any result (all our batch norms have a momentum); with one client they are the centralised
    training's.

    Args:
        module: the server's recogniser.
        batches: how many.
    """
    for name, buffer in module.named_buffers():
        if name.endswith(".num_batches_tracked"):
            buffer.add_(batches)


def weights_hash(weights: Weights) -> str:
    """Return the SHA-256 of weights: names, types, shapes and bytes, in the order of names.

    Args:
        weights: on the CPU.
    """
    ordered = ((name, weights[name]) for name in sorted(weights))
    return tensors_hash(ordered, lambda name, value: f"{name} {value.dtype} {tuple(value.shape)}\n")


def size_of(weights: Weights) -> int:
    """Return the bytes of weights, without what names and headers take."""
    return sum(value.numel() * value.element_size() for value in weights.values())


def check_run_id(run: str) -> str:
    """Refuse a federation's name that is not 16 hexadecimal digits: it becomes a folder's name.

    Args:
        run: as the server sent it.

    Raises:
        ValueError: it is something else.
    """
    if not _RUN.fullmatch(run):
        raise ValueError(f"run {run!r}: the server's name of a federation has 16 hexadecimal digits")
    return run


def _chosen(module: nn.Module, private_heads: bool) -> Weights:
    return {
        name: value
        for name, value in module.state_dict().items()
        if value.is_floating_point() and not (private_heads and name.startswith(HEAD))
    }
