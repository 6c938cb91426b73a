"""The checkpoint a run goes on from: after every epoch, every so many steps, and when it is asked to stop."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import proxy

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint, Timer

from callbacks.place import (
    Place,
    begin_next_epoch,
    epoch_is_over,
    fit_is_over,
    mark,
    steps_done,
    validation_follows,
)
from lightning_app.core.files import sync_folder
from lightning_app.runs.folder import LAST, PREVIOUS
from lightning_app.runs.trainer_options import blamed

log = logging.getLogger("faceveil")
_NEXT = "next.ckpt"  # what a checkpoint is called until the one before has made room
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]
_AGREE_EVERY = 5  # steps between two looks at whether another rank was asked to stop


class RunCheckpoint(ModelCheckpoint):
    """Keep `checkpoints/last.ckpt`, and the one before as `previous.ckpt`; stop in good order when asked to.

    The command line adds it to every `fit`. It saves after every epoch (its validation included), and every
    N optimiser steps where asked:

        trainer:
          callbacks:
            - class_path: callbacks.RunCheckpoint
              init_args: {every_n_steps: 1000}

    in a config (in an overlay write `callbacks+:`, which adds to the list), or on the command line
    `--trainer.callbacks+=callbacks.RunCheckpoint --trainer.callbacks.every_n_steps=1000`. A `ModelCheckpoint` of the
    user's own, for the best metric say, comes beside it.

    A run that goes on from any of these (`fit --ckpt_path last`) ends with the weights and the optimiser state of
    one that was never interrupted, bit for bit on the CPU: all draws are functions of counters (design, 'Pixels'),
    and the counters are saved so that Lightning neither repeats nor leaves out a batch, a validation or an epoch's
    end, whether the run is limited by epochs or by steps. Metrics averaged over the epoch's steps so far are not kept.

    SIGTERM, SIGUSR1 and Ctrl-C (the first; the second stops at once) end the step under way, then save and end `fit`
    with SystemExit(128 + signal). A validation
    under way is left in a single process, and repeated when the run goes on; several ranks finish it first. They
    agree on the step, at the latest five steps after one of them was signalled. While it fits, these handlers
    replace Lightning's, on SLURM too: nothing is requeued from here and no `hpc_ckpt` is written. Ask SLURM for the
    signal in time (`#SBATCH --signal=SIGUSR1@90`) and let the job script requeue on exit code 138 (SIGUSR1) or 143
    (SIGTERM) and pass `--ckpt_path last`, see configs/overlays/ddp_2node_slurm.sbatch. Earlier handlers come back
    when `fit` ends. Where `fit` is not called from the main thread, signals are not listened to.

    A checkpoint that cannot be written (a full disk) is an error in the log and no end of the run: the files of
    before stay, and the next save tries again.

    Args:
        every_n_steps: optimiser steps between two checkpoints within an epoch; none by default.
        dirpath: the folder; by default `checkpoints` of the run's.

    Raises:
        ValueError: `every_n_steps` is not positive.
        OSError: the last checkpoint of the run could not be written.
        SystemExit: the run was asked to stop, and is saved.
    """

    def __init__(self, every_n_steps: int | None = None, dirpath: Path | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps}: give at least 1, or leave it out")
        super().__init__(dirpath=dirpath, save_last=True, save_top_k=0, enable_version_counter=False)
        self.every_n_steps = every_n_steps
        self._step = 0  # optimiser steps done when we last looked
        self._place: Place | None = None  # of the checkpoint under way
        self._trained = False
        self._unsaved = ""  # why the newest state is not on the disk
        self._replaces = False  # last.ckpt is damaged: it must not become previous.ckpt
        self._signal = 0
        self._handlers: dict[int, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the folder and remove what a killed write has left there."""
        if stage != "fit":
            return
        if self.dirpath is None:
            self.dirpath = str((Path(trainer.default_root_dir) / LAST.parent).absolute())
        super().setup(trainer, pl_module, stage)
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            for left in (*self._folder.glob(".*.ckpt.*.tmp"), *self._folder.glob(_NEXT)):
                left.unlink()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen to signals, and go on where the checkpoint says."""
        self._step, self._unsaved, self._signal, self._trained = trainer.global_step, "", 0, True
        begin_next_epoch(trainer)
        origin = trainer.ckpt_path  # known only now
        self._replaces = origin is not None and Path(origin).resolve() == self._path(PREVIOUS)
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._heard) for number in _SIGNALS}
        if trainer.received_sigterm:  # heard by Lightning's handler, while the data was made ready
            self._signal = signal.SIGTERM

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is due, or when asked to stop; never between two optimiser steps."""
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        follows = validation_follows(trainer)
        if not stepped or (epoch_is_over(trainer) and not follows):  # the epoch's end, next, saves
            return
        stop = self._stop_asked(trainer, now=follows)
        due = self.every_n_steps is not None and steps_done(trainer) % self.every_n_steps == 0
        if due or stop:
            self._keep(trainer, "before validation" if follows else "within")
        if stop:
            self._stop(trainer, stop)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Leave the validation when asked to stop, in a single process."""
        if (
            self._signal
            and trainer.world_size == 1
            and trainer.state.fn == "fit"
            and not trainer.sanity_checking
        ):
            self._keep(trainer, "before validation")
            self._stop(trainer, self._signal)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do nothing: the end of the epoch follows."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save."""
        self._keep(trainer, "end")
        stop = self._stop_asked(trainer, now=True)
        if stop and not fit_is_over(trainer):
            self._stop(trainer, stop)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse to end well without the weights.

        Raises:
            OSError: the last checkpoint could not be written.
        """
        self._deaf()
        if self._unsaved:
            raise OSError(f"the last {self._unsaved}; make room and go on with --ckpt_path last")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn where nothing was trained, or nothing was left of the run that the checkpoint is of."""
        if self._trained or not trainer.is_global_zero:
            return
        if trainer.ckpt_path is None:
            callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
            log.warning(
                "Nothing was trained: trainer.max_epochs=%s, max_steps=%s, limit_train_batches=%s%s",
                trainer.max_epochs, trainer.max_steps, trainer.limit_train_batches,
                ", and its max_time is over" if any(map(_is_over, callbacks)) else "",
            )  # fmt: skip
            return
        log.warning(
            "Nothing was left to train. `validate --ckpt_path last` gives the metrics of the checkpoint"
        )

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back; what was trained before a callback of Lightning's failed is saved."""
        self._deaf()
        batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        new = (
            self._trained
            and batches.processed == batches.ready
            and self._step != self._last_global_step_saved
        )
        place: Place | None = (
            "before validation" if trainer.validating else "end" if epoch_is_over(trainer) else None
        )
        if new and place and trainer.world_size == 1 and trainer.state.fn == "fit" and blamed(exception):
            self._keep(trainer, place)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write down where in its epoch the run is, so that Lightning goes on from there."""
        if self._place is not None:
            mark(checkpoint["loops"]["fit_loop"], self._place, over=epoch_is_over(trainer))

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: Lightning's would keep the folder's path."""
        return {}

    @property
    def _folder(self) -> Path:
        assert self.dirpath is not None
        return Path(self.dirpath)

    def _path(self, name: Path) -> Path:
        return self._folder.resolve() / name.name

    def _keep(self, trainer: L.Trainer, place: Place) -> None:
        """Save on all ranks; they learn whether rank zero could write."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        failure: OSError | None = None
        self._place = place
        try:
            trainer.save_checkpoint(self._folder / _NEXT, weights_only=False)
        except OSError as error:
            if not trainer.is_global_zero:
                raise
            failure = error
            trainer.strategy.barrier("Trainer.save_checkpoint")  # where the other ranks wait
        finally:
            self._place = None
        if trainer.is_global_zero and failure is None:
            try:
                self._rotate()
            except OSError as error:
                failure = error
        self._unsaved = trainer.strategy.broadcast(
            "" if failure is None else self._why(failure, steps_done(trainer))
        )
        if self._unsaved:
            if trainer.is_global_zero:
                log.error("The %s. Earlier ones stay as they are; the next save tries again.", self._unsaved)
            return
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = self.last_model_path = str(self._path(LAST))
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(proxy(self))

    def _rotate(self) -> None:
        last = self._path(LAST)
        if last.exists() and not self._replaces:
            os.replace(last, self._path(PREVIOUS))
        os.replace(self._path(Path(_NEXT)), last)
        sync_folder(last.parent)
        self._replaces = False

    def _why(self, error: OSError, step: int) -> str:
        there = self._folder if self._folder.is_dir() else Path.cwd()
        free = shutil.disk_usage(there).free
        return (
            f"checkpoint of step {step} could not be written to {self._folder} ({error}; {free:,} bytes free)"
        )

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._signal == signal.SIGINT:
                raise KeyboardInterrupt
            log.warning("Interrupted: this step is ended and saved; interrupt again to stop at once")
        self._signal = number

    def _deaf(self) -> None:
        for number, handler in self._handlers.items():
            # None: a handler from outside Python, which signal.signal cannot put back
            if signal.getsignal(number) == self._heard and handler is not None:
                signal.signal(number, handler)
        self._handlers = {}

    def _stop_asked(self, trainer: L.Trainer, now: bool) -> int:
        """Return which signal any rank has heard, 0 for none; every rank asks at the same steps."""
        if trainer.world_size == 1:
            return self._signal
        if not now and trainer.global_step % _AGREE_EVERY:
            return 0
        heard = torch.tensor(self._signal, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(heard, reduce_op="max"))

    def _stop(self, trainer: L.Trainer, number: int) -> None:
        name = signal.Signals(number).name
        if self._unsaved:
            raise OSError(f"stopped by {name}, but the {self._unsaved}; what was saved before is still there")
        if trainer.is_global_zero:
            log.warning(
                "Stopped by %s after step %d, saved in %s. Go on with the same command and --ckpt_path last",
                name, steps_done(trainer), self._path(LAST),
            )  # fmt: skip
        environment = getattr(trainer.strategy, "cluster_environment", None)
        # Lightning kills all ranks when one that it has started ends with another code than 0
        started = isinstance(environment, LightningEnvironment) and environment.local_rank() != 0
        sys.exit(0 if started else 128 + number)


def _is_over(callback: L.Callback) -> bool:
    """Return whether a callback is the clock of `max_time`, and its time is over."""
    left = callback.time_remaining() if isinstance(callback, Timer) else None
    return left is not None and left <= 0
