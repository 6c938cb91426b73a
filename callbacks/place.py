"""Where in Lightning's loops a run is, and how its checkpoint has to say so."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L

Place = Literal["within", "before validation", "end"]  # where in its epoch a run is saved


def begin_next_epoch(trainer: L.Trainer) -> None:
    """Begin a new epoch after a checkpoint of an epoch's end, with `max_steps` as well; when training starts.

    Args:
        trainer: that goes on with a checkpoint, or not.
    """
    loop = trainer.fit_loop
    epochs: Any = loop.epoch_progress
    if loop.restarting and epochs.current.ready == epochs.current.processed:
        # with max_steps Lightning takes the finished epoch for one to go on with, and counts it twice
        if epochs.current.completed < epochs.current.processed:
            epochs.increment_completed()
        loop.epoch_loop.restarting = False
        loop.reset_restart_stage()
        loop.epoch_loop.reset_restart_stage()


def steps_done(trainer: L.Trainer) -> int:
    """Return how many steps a fit has made: batches, or what gradients are accumulated into, of one optimiser.

    Lightning counts calls of optimisers: a batch on which two of them step, as CGAN's, counts twice there.

    Args:
        trainer: that fits, or has.
    """
    model: Any = trainer.lightning_module
    counted = getattr(model, "batches", None)
    by_itself = not getattr(model, "automatic_optimization", True)
    return counted if by_itself and isinstance(counted, int) else trainer.global_step


def epoch_is_over(trainer: L.Trainer) -> bool:
    """Return whether the batch under way, or just done, is the epoch's last.

    Args:
        trainer: that fits.
    """
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress
    return bool(batches.is_last_batch or batches.current.ready >= trainer.num_training_batches)


def fit_is_over(trainer: L.Trainer) -> bool:
    """Return, at the end of an epoch, whether it was the last.

    Args:
        trainer: that fits.
    """
    epochs, done = trainer.max_epochs, trainer.current_epoch + 1
    return (epochs is not None and 0 <= epochs <= done) or 0 <= trainer.max_steps <= trainer.global_step


def validation_follows(trainer: L.Trainer) -> bool:
    """Return, at the end of a batch, whether Lightning validates next.

    Args:
        trainer: that fits.
    """
    epochs, every = trainer.check_val_every_n_epoch, trainer.val_check_batch
    if not trainer.enable_validation or (epochs is not None and (trainer.current_epoch + 1) % epochs):
        return False
    if every is None or every == float(
        "inf"
    ):  # by the clock, which no checkpoint foresees; or length unknown
        return False
    loop = trainer.fit_loop.epoch_loop
    return bool(((loop.total_batch_idx if epochs is None else loop.batch_idx) + 1) % every == 0)


def mark(loops: dict[str, Any], place: Place, over: bool) -> None:
    """Change the loops' counters to what Lightning goes on from without repeating or leaving out anything.

    Lightning tells from its counters where a run was saved, but in two places tells wrongly: after the last
    batch before a validation it would take the validation for done, and of an epoch cut short (by `max_steps`,
    `max_time` or an early stop) it would take the rest for done.

    Args:
        loops: state of Lightning's fit loop.
        place: where in its epoch the run is.
        over: whether that was its last batch.
    """
    batches, validation = loops["epoch_loop.batch_progress"], loops["epoch_loop.val_loop.batch_progress"]
    none = {"ready": 0, "started": 0, "processed": 0, "completed": 0}
    validation["total"], validation["current"] = dict(none), dict(none)
    for kind in ("total", "current"):
        if place == "before validation":  # as if saved while the first batch of it was under way
            batches[kind]["completed"] = batches[kind]["processed"]
            validation["total"] |= {"ready": 1, "started": 1}
        elif place == "end" and not over:
            batches[kind]["completed"] -= 1
            loops["epoch_progress"][kind]["processed"] -= 1
    if place == "end" and not over:
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
