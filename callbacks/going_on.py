"""Whether a run may go on with other batches, epochs or optimiser steps than it was begun with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from lightning_app.runs.checkpoint_bounds import DATA_STATE
from lightning_app.runs.trainer_options import total_steps

log = logging.getLogger("faceveil")
_EPOCHS, _LIMITS, _STEPS = "planned_epochs", "limits", "planned_steps"  # of a checkpoint
_BATCHES = ("limit_train_batches", "overfit_batches")


def is_scheduled(pl_module: L.LightningModule) -> bool:
    """Return whether a model's learning rate depends on how many steps its run is to have.

    Args:
        pl_module: of any class; one without a schedule of ours has none.
    """
    kinds = {getattr(pl_module, name, "constant") for name in ("schedule", "decay")}
    warmup = getattr(pl_module, "warmup", 0.0)
    return kinds != {"constant"} or (isinstance(warmup, float) and warmup > 0)


def limits(trainer: L.Trainer, epoch: int) -> dict[str, str]:
    """Return the options that choose the batches of an epoch and of a step, as text: 1 is one batch, 1.0 are all.

    Args:
        trainer: that fits.
        epoch: whose; the accumulation of gradients may change from one to the next.
    """
    found = {name: str(getattr(trainer, name)) for name in _BATCHES}
    return found | {"accumulate_grad_batches": str(_accumulated(trainer, epoch))}


def _accumulated(trainer: L.Trainer, epoch: int) -> int:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler):
            return int(callback.get_accumulate_grad_batches(epoch))
    return int(trainer.accumulate_grad_batches)


def planned_steps(trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any] | None:
    """Return over how many optimiser steps a schedule is laid, and what they follow from; None without a schedule.

    Args:
        trainer: that fits; its images are loaded.
        pl_module: the model.
    """
    if not is_scheduled(pl_module) or not trainer.lr_scheduler_configs:
        return None
    return {
        "steps": total_steps(trainer, "schedule"),
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "data.global_batch_size": getattr(getattr(trainer, "datamodule", None), "global_batch_size", None),
        **{f"trainer.{name}": value for name, value in limits(trainer, trainer.current_epoch).items()},
    }


def keep(trainer: L.Trainer, checkpoint: dict[str, Any], planned: Mapping[str, Any] | None) -> None:
    """Write down in a checkpoint for how many epochs and steps the run was meant, and on which batches.

    Args:
        trainer: that fits.
        checkpoint: about to be saved.
        planned: what `planned_steps` gave.
    """
    checkpoint[_EPOCHS], checkpoint[_LIMITS] = trainer.max_epochs, limits(trainer, trainer.current_epoch)
    if planned is not None:
        checkpoint[_STEPS] = dict(planned)


def check_limits(trainer: L.Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Refuse to go on in the midst of an epoch whose rest would be other batches; an older checkpoint does not tell.

    Args:
        trainer: that fits.
        checkpoint: to go on with.

    Raises:
        ValueError: names the options that were others.
    """
    before, now = checkpoint.get(_LIMITS), limits(trainer, _epochs_done(checkpoint) or 0)
    data = checkpoint.get(DATA_STATE)
    done = data.get("batches_done") if isinstance(data, Mapping) else None
    if not done or not isinstance(before, Mapping):
        return
    other = [
        f"trainer.{name} {before[name]}, here {value}"
        for name, value in now.items()
        if before.get(name, value) != value
    ]
    if other:
        raise ValueError(
            f"the checkpoint is in the midst of an epoch, after {done} of its batches, and {'; '.join(other)}: images "
            "would be shown twice or not at all, or steps be other ones; end the epoch as it began, then change it"
        )


def check_epochs(trainer: L.Trainer, checkpoint: Mapping[str, Any], scheduled: bool) -> None:
    """Refuse fewer epochs than the run has had; say so where a schedule of the learning rate is laid over others.

    Args:
        trainer: that fits.
        checkpoint: to go on with.
        scheduled: whether the learning rate depends on the number of steps.

    Raises:
        ValueError: the run has had more epochs than it is to have.
    """
    most, done = trainer.max_epochs, _epochs_done(checkpoint)
    if done is None or most is None or most < 0:
        return
    if done > most:
        raise ValueError(
            f"trainer.max_epochs={most}: the run that --ckpt_path goes on with has had {done} epochs already; give "
            f"more to train on (--trainer.max_epochs {2 * done}), or validate --ckpt_path last for its metrics"
        )
    planned = checkpoint.get(_EPOCHS)
    if scheduled and isinstance(planned, int) and done < most != planned > 0 and trainer.is_global_zero:
        log.info(
            "The run goes on to %d epochs, until now it was to have %d: the schedule of the learning rate is laid over "
            "the new number, so the rate jumps.", most, planned,
        )  # fmt: skip


def steps_before(trainer: L.Trainer, checkpoint: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what a checkpoint kept of `planned_steps`; None of an older one, or where nothing is left to train.

    Args:
        trainer: that fits.
        checkpoint: to go on with.
    """
    before, done, most = checkpoint.get(_STEPS), _epochs_done(checkpoint), trainer.max_epochs
    if not isinstance(before, Mapping) or (done is not None and most is not None and 0 <= most <= done):
        return None
    return before


def check_steps(trainer: L.Trainer, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> None:
    """Refuse to lay a schedule of the learning rate over another number of steps unasked; say so where it was asked.

    Args:
        trainer: that fits.
        before: of the checkpoint, see `steps_before`.
        now: what `planned_steps` gives here.

    Raises:
        ValueError: the number is another, though neither `max_epochs` nor `max_steps` are, nor are other data accepted.
    """
    if before is None or now is None or before.get("steps") == now["steps"]:
        return
    numbers = f"{now['steps']} optimiser steps, until now it was to have {before.get('steps')}"
    if before.get("max_epochs") != now["max_epochs"]:
        return  # which `check_epochs` says
    accepts = getattr(getattr(trainer, "datamodule", None), "other_data", "refuse") == "accept"
    if before.get("max_steps") != now["max_steps"] or accepts:
        if trainer.is_global_zero:
            log.info("The run goes on to %s: the schedule of the learning rate is laid over the new number, so the "
                     "rate jumps.", numbers)  # fmt: skip
        return
    other = [
        f"{name} {before[name]}, here {value}"
        for name, value in now.items()
        if name.startswith(("data.", "trainer.")) and before.get(name, value) != value
    ]
    raise ValueError(
        f"the run that --ckpt_path goes on with would have {numbers} ({'; '.join(other) or 'other batches'}), and the "
        "rate of its schedule would jump: go on as it began, or give another trainer.max_epochs as well"
    )


def _epochs_done(checkpoint: Mapping[str, Any]) -> int | None:
    """Return how many epochs a run has had; None of a checkpoint of another version of Lightning."""
    try:
        return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    except (KeyError, TypeError):
        return None
