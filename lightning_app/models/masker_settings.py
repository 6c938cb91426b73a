"""What a masker's training takes: its settings, its data, and a checkpoint that it goes on from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal, get_args

import lightning as L
from lightning.pytorch.strategies import DDPStrategy

from lightning_app.desensitize.masker import state_of_masker
from lightning_app.masks.learned import FEWEST_FACES, check_share
from lightning_app.models.masker_cut import Weights
from lightning_app.models.parts import called, same

log = logging.getLogger("faceveil")
Adversary = Literal["obfuscator", "restorer"]
_PARTS = ("backbone", "head")
# settings that make another network, or another run
_FIXED = (
    "masker_width", "masker_depth", "rounds", "core", "share", "weights", "adversarial", "adversary",
    "predictor_steps", "input_size", "width",
)  # fmt: skip
KEPT = ("lr", "masker_lr", "weight_decay", "schedule", "warmup")  # what a resumed optimiser keeps


# settings that nothing looks at where another one is off, and what they are when left out
_ADVERSARYS: dict[str, object] = {"adversary": "obfuscator", "predictor_steps": 3}
_GROWING: dict[str, object] = {"core": 0.25}


def check_settings(
    in_channels: int, share: float, weights: str, adversary: str, counts: Mapping[str, int]
) -> None:
    """Check what is not checked where it is used.

    Args:
        in_channels: of the images.
        share: of pixels shown.
        weights: see `AdversarialMasker`.
        adversary: likewise.
        counts: numbers by their names.

    Raises:
        ValueError: one is out of range.
    """
    if in_channels != 3:
        raise ValueError(
            f"in_channels={in_channels}: a masker chooses pixels of pictures, which have 3 channels"
        )
    check_share(share)
    for name, value, known in (("weights", weights, Weights), ("adversary", adversary, Adversary)):
        if value not in get_args(known):
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(get_args(known))}")
    for name, count in counts.items():
        least = FEWEST_FACES if name == "faces" else 1
        if count < least:
            raise ValueError(f"{name}={count}: give at least {least}")


def check_used(settings: Mapping[str, Any]) -> None:
    """Refuse settings of what is left out: whoever gives them means them.

    Args:
        settings: `adversarial` and `rounds`, and what hangs on them.

    Raises:
        ValueError: one was set to no purpose.
    """
    for name, usual in _ADVERSARYS.items():
        if not settings["adversarial"] and settings[name] != usual:
            raise ValueError(
                f"{name}={settings[name]}: is of the adversary, whom adversarial: false leaves out; leave it out too"
            )
    for name, usual in _GROWING.items():
        if not settings["rounds"] and settings[name] != usual:
            raise ValueError(
                f"{name}={settings[name]}: is for masks that grow; give rounds: 4 too, or leave it out"
            )


def check_data(data: Any, fitting: bool) -> None:
    """Check that data suit a masker.

    Args:
        data: a `FaceDataModule`, or None.
        fitting: they are trained on.

    Raises:
        ValueError: they give no pictures, or mix them; the message says what to change.
    """
    if data is None:
        raise ValueError("AdversarialMasker needs a FaceDataModule, which tells how pixels are normalised")
    name = data.desensitizer.called
    if not data.desensitizer.is_image:
        raise ValueError(f"data.desensitizer: {name} gives no pictures; a masker chooses pixels of pictures")
    if data.desensitizer.mixes > 1:
        raise ValueError(f"data.desensitizer: {name} mixes images; a masker learns from single ones")
    if data.desensitizer.hides and fitting:
        log.warning("AdversarialMasker: it learns from what %s leaves of the faces.", name)


def check_strategy(trainer: L.Trainer) -> None:
    """Check that no rank waits for gradients of networks that the adversary's step does not move.

    Args:
        trainer: of the fit.

    Raises:
        ValueError: one would; the message names the overlay.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, DDPStrategy) or trainer.world_size < 2:
        return
    # Lightning hands its options on to torch's DDP, and shows them nowhere else
    if not strategy._ddp_kwargs.get("find_unused_parameters"):
        raise ValueError(
            "trainer.strategy: in an AdversarialMasker's adversary's step some networks have no gradients, for which "
            "ddp would wait: add --config overlays/masker_ddp.yaml (strategy: ddp_find_unused_parameters_true)"
        )


def kept_of_same(checkpoint: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint keeps beside a masker's weights, of a masker made as ours is.

    Args:
        checkpoint: as Lightning wrote it.
        ours: hyperparameters of ours.

    Raises:
        ValueError: the checkpoint holds another network, or another model's.
    """
    saved = checkpoint.get("hyper_parameters", {})
    _, kept = state_of_masker(checkpoint, "this checkpoint")
    other = [key for key in _FIXED if saved.get(key) != ours[key]]
    other += [key for key in _PARTS if not same(saved.get(key), ours[key])]
    if other:
        theirs, mine = (
            ", ".join(f"{key}={_word(key, description.get(key))}" for key in other)
            for description in (saved, ours)
        )
        raise ValueError(
            f"this checkpoint is of another masker ({theirs}; yours: {mine}): use the config it was trained with"
        )
    return kept


def _word(key: str, value: object) -> str:
    return called(value) if key in _PARTS else str(value)
