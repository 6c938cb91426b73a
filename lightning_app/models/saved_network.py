"""Whether a checkpoint is of this network, and what it says of the network it is of."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from torch import Tensor

from lightning_app.core.plain import listed
from lightning_app.models.parts import called, same
from lightning_app.networks import Backbone

log = logging.getLogger("faceveil")
HEAD = "head."  # before the head's names in a state dict
_BACKBONE = "backbone."
# settings that make another network
_NETWORK = ("width", "insertion_points", "normalise", "in_channels", "input_size")
_PARTIAL = "partial_until"  # a setting of ResNetPartial alone

Settings = Mapping[str, Any]  # hyper-parameters by name


def head_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the head's part of a recogniser's state dict, by the head's own names.

    Args:
        state: of a recogniser's `state_dict`.
    """
    return {key.removeprefix(HEAD): value for key, value in state.items() if key.startswith(HEAD)}


def black_level(data: object) -> float:
    """Return what a black pixel becomes when it is normalised as a checkpoint's data were; 0 where that is not known.

    Args:
        data: what the checkpoint keeps of the DataModule: `mean` and `std`.
    """
    mean, std = (data.get(key) if isinstance(data, dict) else None for key in ("mean", "std"))
    if not isinstance(mean, int | float) or not isinstance(std, int | float) or std <= 0:
        return 0.0
    return -mean / std


def check_network(state: Mapping[str, Tensor], saved: Settings, backbone: Backbone, own: Settings) -> None:
    """Refuse the weights of another network in one line.

    Args:
        state: the checkpoint's state dict.
        saved: the checkpoint's hyper-parameters.
        backbone: would take the weights.
        own: this recogniser's hyper-parameters.

    Raises:
        ValueError: shapes of weights or settings of the network differ; names the first.
    """
    mine = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    theirs = {
        key.removeprefix(_BACKBONE): tuple(value.shape)
        for key, value in state.items() if key.startswith(_BACKBONE)
    }  # fmt: skip
    other = [
        key for key in _NETWORK if key in saved and key in own and listed(saved[key]) != listed(own[key])
    ]
    if "backbone" in saved and not same(saved["backbone"], own["backbone"]):
        other.append("backbone")
    if "backbone" in saved and saved.get(_PARTIAL) != own.get(_PARTIAL):  # the same weights, another network
        other.append(_PARTIAL)
    if mine == theirs and not other:
        return
    wrong = [*sorted({key for key, _ in set(mine.items()) ^ set(theirs.items())}), *other]
    raise ValueError(
        f"this checkpoint is of another network ({_describe(saved)}; yours: {_describe(own)}; {len(wrong)} weights or "
        f"settings differ, the first is {wrong[0]}): use the config it was trained with"
    )


def check_attacker(saved: Settings, own: Settings, shape: Sequence[str]) -> None:
    """Refuse the checkpoint of an attacker whose network has other settings, in one line.

    Args:
        saved: the checkpoint's hyper-parameters.
        own: this attacker's.
        shape: names of the settings that make its network, beside `bit_planes`, which earlier checkpoints do not have.

    Raises:
        ValueError: settings differ.
    """
    other = [key for key in shape if saved.get(key) != own[key]]
    other += ["bit_planes"] if bool(saved.get("bit_planes")) != bool(own["bit_planes"]) else []
    if other:
        theirs, ours = (", ".join(f"{key}={where.get(key)}" for key in other) for where in (saved, own))
        raise ValueError(
            f"this checkpoint is of another network ({theirs}; yours: {ours}): use the config it was trained with"
        )


def warn_of_kept(kept: Sequence[str], saved: Settings, own: MutableMapping[str, Any]) -> None:
    """Warn of settings of the optimiser that a run which goes on takes from its checkpoint, and take them over.

    Args:
        kept: names of such settings.
        saved: the checkpoint's hyper-parameters.
        own: this recogniser's, which its next checkpoint keeps.
    """
    for key in kept:
        if key in saved and key in own and saved[key] != own[key]:
            log.warning("model.%s=%s is not used: the checkpoint goes on with %s", key, own[key], saved[key])
            own[key] = saved[key]


def _describe(settings: Settings) -> str:
    points = ", ".join(settings.get("insertion_points") or ()) or "no FSM"
    if settings.get(_PARTIAL) is not None:
        points = f"partial until {settings[_PARTIAL]}"
    return f"{called(settings.get('backbone', 'unknown'))}, {points}, {settings.get('input_size', '?')} px"
