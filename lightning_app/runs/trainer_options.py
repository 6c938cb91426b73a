"""Lightning's own switches: those that a FaceVeil run cannot honour are refused in one line; see docs/trainer.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, GradientAccumulationScheduler
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from lightning_app.core.printing import one_line

# numbers by which Lightning divides, or which it passes over where they are negative
_LEAST: Mapping[str, float] = {
    "accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "val_check_interval": 0, "gradient_clip_val": 0,
}  # fmt: skip
_NOT_BELOW: Mapping[str, int] = {  # what Lightning passes over where it is less
    "min_epochs": 0, "min_steps": 0, "num_sanity_val_steps": -1, "log_every_n_steps": 0,
}  # fmt: skip
_OFF = ("gradient_clip_val",)  # of which 0 means none
_OURS = ("lightning_app.", "callbacks.", "datamodules.")


def check_asked(trainer: Mapping[str, Any], deals_images: bool, command: str = "fit") -> None:
    """Refuse arguments of Lightning's Trainer that would be passed over, or undo what a run promises.

    Args:
        trainer: the arguments by name, as a config has them.
        deals_images: whether the DataModule deals the images to the ranks itself.
        command: `fit`, `validate`, `test` or `predict`.

    Raises:
        ValueError: names the argument and what to give instead.
    """
    for name, least in _LEAST.items():
        value = trainer.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if not value >= least or (value == 0 and name not in _OFF):
            raise ValueError(f"trainer.{name}={value}: give a number above 0, or leave it out")
    for name, lowest in _NOT_BELOW.items():
        value = trainer.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value < lowest:
            raise ValueError(f"trainer.{name}={value}: give {lowest} or more, or leave it out")
    limit = f"limit_{'val' if command == 'validate' else command}_batches"
    if command != "fit" and trainer.get(limit) == 0:
        raise ValueError(f"trainer.{limit}=0: nothing is left to {command}; give more, or leave it out")
    for unit in ("epochs", "steps"):
        fewest, most = trainer.get(f"min_{unit}"), trainer.get(f"max_{unit}")
        if isinstance(fewest, int) and isinstance(most, int) and 0 <= most < fewest:
            raise ValueError(
                f"trainer.min_{unit}={fewest} and max_{unit}={most}: the run ends at the latter; give "
                f"min_{unit} no more than max_{unit}"
            )
    if (folder := trainer.get("default_root_dir")) is not None:
        raise ValueError(
            f"trainer.default_root_dir={folder}: a run leaves everything in runs/<name>; leave it out, and choose that "
            "folder with --runs and --name"
        )
    if trainer.get("model_registry") is not None:
        raise ValueError(
            f"trainer.model_registry={trainer['model_registry']}: checkpoints stay in the run folder, none is sent to "
            "Lightning's registry; leave it out"
        )
    if trainer.get("use_distributed_sampler") and deals_images:
        raise ValueError(
            "trainer.use_distributed_sampler=True: the DataModule deals the images to the ranks itself, without "
            "repeating any; leave it out"
        )


def check_made(trainer: L.Trainer) -> None:
    """Refuse strategies, plugins and callbacks that a run cannot go with.

    Args:
        trainer: just made, its loops not begun.

    Raises:
        ValueError: names the setting and what to give instead.
    """
    strategy = trainer.strategy
    alike = isinstance(strategy, SingleDeviceStrategy | DDPStrategy) and not isinstance(
        strategy, DeepSpeedStrategy
    )
    if not alike or isinstance(strategy.launcher, _MultiProcessingLauncher):
        raise ValueError(
            f"trainer.strategy: {type(strategy).__name__}, spawned or sharding the network, does not go: every rank is "
            "a process with a command line of its own and verifies alone with the whole network; take ddp"
        )
    if isinstance(strategy.checkpoint_io, AsyncCheckpointIO):
        raise ValueError(
            "trainer.plugins=AsyncCheckpointIO: a checkpoint takes the place of the one before once it is on the disk, "
            "which only a write that is waited for tells; leave it out"
        )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, BatchSizeFinder):
            raise ValueError(
                "trainer.callbacks: BatchSizeFinder changes the batch after the learning rate's schedule was laid over "
                "the steps; leave it out and give data.global_batch_size"
            )


def total_steps(trainer: L.Trainer, schedule: str) -> int:
    """Count the optimiser steps of a whole fit, over which a schedule of the learning rate is laid.

    Args:
        trainer: that fits; limits by batches, epochs and steps and the accumulation of gradients count.
        schedule: how the message calls it.

    Raises:
        ValueError: the fit is limited by time alone, or by nothing.
    """
    estimated = trainer.estimated_stepping_batches
    if estimated == float("inf"):
        raise ValueError(
            f"model.{schedule} is laid over all steps of the run, and trainer.max_epochs=-1 without max_steps does not "
            "tell how many; give either of them (beside max_time, if you like)"
        )
    changing = [c for c in trainer.callbacks if isinstance(c, GradientAccumulationScheduler)]  # type: ignore[attr-defined]
    epochs, batches = trainer.max_epochs, trainer.num_training_batches
    if not changing or epochs is None or epochs < 0 or batches == float("inf"):
        return int(estimated)
    steps = sum(-(-int(batches) // changing[0].get_accumulate_grad_batches(epoch)) for epoch in range(epochs))
    return min(steps, trainer.max_steps) if trainer.max_steps >= 0 else steps


def blamed(error: BaseException) -> str | None:
    """Return the name of the callback of Lightning's in which an error arose; None where it arose elsewhere.

    Args:
        error: with its traceback.
    """
    step, owners = error.__traceback__, list[tuple[str, Any]]()
    while step is not None:
        frame = step.tb_frame
        owners.append((str(frame.f_globals.get("__name__", "")), frame.f_locals.get("self")))
        step = step.tb_next
    for module, owner in reversed(owners):
        if isinstance(owner, Callback) and type(owner).__module__.startswith("lightning."):
            return type(owner).__name__
        others = isinstance(owner, L.LightningModule | L.LightningDataModule | L.Callback)
        if module.startswith(_OURS) or (others and not type(owner).__module__.startswith("lightning.")):
            return None
    return None


def callback_error(error: Exception) -> Exception:
    """Return what a callback of Lightning's fails with as the one line that a user needs.

    Args:
        error: that ended a command.

    Returns:
        A ValueError naming the callback; the error itself where it arose elsewhere.
    """
    if isinstance(error, ValueError | OSError) or (name := blamed(error)) is None:
        return error
    return ValueError(f"trainer.callbacks: {name} failed: {one_line(error) or type(error).__name__}")
