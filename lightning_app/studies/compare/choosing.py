"""What of a comparison is done: some of its methods and attackers, and for how long attackers are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from lightning_app.cli.fit_config import read_trainer
from lightning_app.studies.compare.methods import AttackerRun, Method
from lightning_app.studies.config_place import said_at

T = TypeVar("T")
R = TypeVar("R", bound=AttackerRun)
Trained = TypeVar("Trained", bound=Method | AttackerRun)
_EPOCHS, _STEPS, _CHECK, _TIME = "max_epochs", "max_steps", "check_val_every_n_epoch", "max_time"


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
    """Return an attacker that is trained for so many times the epochs, and at most so many times the steps, it has.

    Args:
        attacker: it; its overrides count, in whatever form they are given.
        budget: how many times as many epochs, rounded to at least one.

    Raises:
        ValueError: the budget is not positive, the config counts no epochs, or a time ends its training.
        FileNotFoundError: there is no such config.
    """
    if not budget > 0:
        raise ValueError(f"budget: {budget}; give how many times as long attackers are trained, above 0")
    if budget == 1:
        return attacker
    with said_at(attacker.label):
        said = read_trainer(["--config", attacker.config, *attacker.args])
    if not _counts(said[_EPOCHS]):
        raise ValueError(f"budget: {attacker.config} has no trainer.max_epochs to multiply; give it one")
    if said[_TIME] is not None:
        raise ValueError(
            f"budget: {attacker.config} has trainer.max_time={said[_TIME]}, which ends its training whatever its "
            "epochs: leave max_time or --budget out"
        )
    settings = {key: said[key] for key in (_EPOCHS, _STEPS) if _counts(said[key])}
    # a check after every epoch stays one, and one at the end stays there
    if _counts(said[_CHECK]) and (said[_CHECK] > 1 or said[_EPOCHS] == 1):
        settings[_CHECK] = said[_CHECK]
    more = [part for key, value in settings.items()
            for part in (f"--trainer.{key}", str(max(1, round(value * budget))))]  # fmt: skip
    return replace(attacker, args=[*attacker.args, *more])


def _counts(value: object) -> bool:
    return isinstance(value, int) and value > 0
