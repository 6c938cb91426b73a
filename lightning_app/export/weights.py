"""The network's weights as safetensors, with what is needed to build it again."""

from __future__ import annotations

import json
from typing import Any

from safetensors.torch import save

from datamodules.same_description import EARLIER, earlier_desensitizers
from lightning_app.core.plain import listed
from lightning_app.models.base import Recogniser
from lightning_app.models.checkpoints import WEIGHTS_FORMAT, CheckpointFacts

# what makes the network; how it was optimised is nobody's business
_SETTINGS = (
    "backbone",
    "width",
    "insertion_points",
    "normalise",
    "partial_until",
    "input_size",
    "in_channels",
    "channels_last",
)


def to_safetensors(
    model: Recogniser,
    facts: CheckpointFacts,
    description: dict[str, Any] | None,
    mean: float,
    std: float,
    head: bool = False,
) -> bytes:
    """Write backbone and gates as safetensors, which `load_recogniser` reads.

    Args:
        model: the recogniser.
        facts: of its checkpoint.
        description: how its training faces were desensitized, without names of files.
        mean: subtracted from every channel of its images.
        std: what every channel is divided by.
        head: write the classification head too, a row per training identity.

    Returns:
        The file's bytes; metadata are strings, JSON where they hold more than one value.

    Raises:
        ValueError: the head is asked for, and the checkpoint has none.
    """
    state = model.state_dict()
    if head and not model.head.num_classes:
        raise ValueError(f"--head: {facts.path} has no head; leave it out")
    tensors = {k: v.contiguous() for k, v in state.items() if head or not k.startswith("head.")}
    settings = {key: listed(model.hparams[key]) for key in _SETTINGS if key in model.hparams}
    if head and model.hparams.get("head") is not None:  # without it nobody needs its class
        settings["head"] = model.hparams["head"]
    split = facts.data.get("split") or {}
    counts = {key: split[key] for key in ("images", "held_out") if key in split}  # no digest of names
    data: dict[str, Any] = {"num_classes": facts.data.get("num_classes"), "split": counts or None}
    if earlier := earlier_desensitizers(facts.data):
        data[EARLIER] = earlier
    if not facts.pictures:
        data["pixels"] = {"size": facts.pixels}
    metadata = {
        "format": "pt",  # what transformers and others look for
        "faceveil": WEIGHTS_FORMAT,
        "model": facts.model,
        "settings": json.dumps(settings, sort_keys=True),
        "data": json.dumps(data | {"desensitizer": description, "mean": mean, "std": std}, sort_keys=True),
        "step": str(facts.step),
        "checkpoint_sha256": facts.sha256,
    }
    return save(tensors, metadata)
