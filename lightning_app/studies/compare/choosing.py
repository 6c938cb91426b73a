"""What of a comparison is done: some of its methods and attackers, and for how long attackers are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

from lightning_app.cli.configs import find_config
from lightning_app.cli.yaml_file import read_config_file
from lightning_app.studies.compare.methods import AttackerRun, Method

T = TypeVar("T")
R = TypeVar("R", bound=AttackerRun)
Trained = TypeVar("Trained", bound=Method | AttackerRun)
_EPOCHS, _CHECK = "max_epochs", "check_val_every_n_epoch"


def chosen(option: str, given: Mapping[str, T], labels: Sequence[str] | None) -> dict[str, T]:
    """Return those of a mapping that are asked for, in its order.

    Args:
        option: that names them, for the message.
        given: label -> what there is.
        labels: those that are asked for; None for all.

    Raises:
        ValueError: one is not there.
    """
    unknown = [label for label in labels or () if label not in given]
    if unknown:
        raise ValueError(f"{option}: {unknown[0]!r}; there are {', '.join(given) or 'none'}")
    return {label: one for label, one in given.items() if labels is None or label in labels}


def with_args(one: Trained, args: Sequence[str] | None) -> Trained:
    """Return a method or an attacker whose run has further overrides, before its own.

    Args:
        one: it.
        args: overrides of every run of a comparison.
    """
    return replace(one, args=[*(args or ()), *one.args])


def longer(attacker: R, budget: float) -> R:
    """Return an attacker that is trained for so many times the epochs of its config.

    Args:
        attacker: it.
        budget: how many times as many epochs, rounded to at least one.

    Raises:
        ValueError: the budget is not positive, or the config counts no epochs.
        FileNotFoundError: there is no such config.
    """
    if not budget > 0:
        raise ValueError(f"budget: {budget}; give how many times as long attackers are trained, above 0")
    if budget == 1:
        return attacker
    said = read_config_file(find_config(attacker.config))
    settings = {key: (said.get("trainer") or {}).get(key) for key in (_EPOCHS, _CHECK)}
    words = [
        part for word in attacker.args for part in (word.split("=", 1) if word.startswith("-") else [word])
    ]
    for option, value in pairwise(words):
        key = option.removeprefix("--trainer.")
        if key in settings and option != key:
            settings[key] = int(value)
    epochs = settings[_EPOCHS]
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"budget: {attacker.config} has no trainer.max_epochs to multiply; give it one")
    more = [part for key, value in settings.items() if value is not None
            for part in (f"--trainer.{key}", str(max(1, round(value * budget))))]  # fmt: skip
    return replace(attacker, args=[*attacker.args, *more])
