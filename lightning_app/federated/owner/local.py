"""One round of a client's own training: an ordinary Lightning fit that begins where the global round is."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import lightning as L
from safetensors.torch import save
from torch import Tensor, distributed

from datamodules import FaceDataModule
from lightning_app.core.files import write_atomically
from lightning_app.distributed.parent import Bond, end_with_parent
from lightning_app.federated.protocol.plan import client_trainer
from lightning_app.models.base import Recogniser


@dataclass(frozen=True)
class Trained:
    """What a round of local training gave.

    Attributes:
        batches: trained on, in all epochs of the round.
        loss: mean of the last epoch, in nats.
        lr: of the last step.
        seconds: it took.
    """

    batches: int
    loss: float
    lr: float
    seconds: float


class FromRound(L.Callback):
    """Let a fit begin at a round's first epoch, with its step's learning rate, and end with the round.

    Epoch and step count on from round to round, so that the order of images, augmentation, dropout and learning
    rate are what they would be in one long training; the optimiser, and with it momentum, is new.

    Args:
        round: number of the round, from 1.
        epochs: epochs of a round.
        stays: file for what stays with the owner beside a private head, where the model has such.
    """

    def __init__(self, round: int, epochs: int, stays: Path) -> None:
        self.done, self.epochs, self.stays = (round - 1) * epochs, epochs, stays

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Count the epochs of earlier rounds as done, before the first order of images is drawn."""
        # a rank that was spawned: torch asks for SIGINT when its parent dies, which a rank that waits does not hear
        launcher = parent_process() if trainer.world_size > 1 else None
        if launcher is not None and launcher.pid is not None:
            end_with_parent(Bond(launcher.pid, lasting=False))
        progress: Any = trainer.fit_loop.epoch_progress
        for count in (progress.current, progress.total):
            count.ready = count.started = count.processed = count.completed = self.done

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count their steps as done, and bring the learning rate there."""
        if not self.done:
            return
        assert trainer.max_epochs is not None
        steps = int(trainer.estimated_stepping_batches) // trainer.max_epochs * self.done
        optimizer: Any = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer
        optimizer.step.total.ready = optimizer.step.total.completed = steps
        for config in trainer.lr_scheduler_configs:
            config.scheduler.last_epoch = steps - 1
            with warnings.catch_warnings():  # it takes a schedule ahead of its optimiser for a mistake
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
                config.scheduler.step()  # type: ignore[call-arg]  # one for all kinds of schedulers

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the loss, for its mean over the epoch and all ranks."""
        loss: Tensor = outputs["loss"]
        pl_module.log("federated/loss", loss, on_step=False, on_epoch=True, sync_dist=True,
                      batch_size=len(batch["index"]))  # fmt: skip

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch's batches, and end the fit with the round."""
        # spawned ranks hand back logged metrics, and nothing else
        pl_module.log("federated/batches", float(trainer.num_training_batches), batch_size=1, sync_dist=True)
        progress: Any = trainer.fit_loop.epoch_progress.current
        if progress.processed >= self.done + self.epochs:
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what stays with its owner: here, for a spawned rank hands back weights and metrics alone."""
        assert isinstance(pl_module, Recogniser)
        kept = pl_module.stays()
        if kept and trainer.is_global_zero:
            write_atomically(self.stays, save(kept))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let spawned ranks part together: nobody else closes their connection, and one gone can abort the others."""
        if parent_process() is not None and distributed.is_initialized():
            distributed.barrier()
            distributed.destroy_process_group()


def train_round(
    model: Recogniser,
    data: FaceDataModule,
    options: Mapping[str, Any],
    number: int,
    rounds: int,
    epochs: int,
    folder: Path,
    stays: Path,
) -> Trained:
    """Train a model for one round on a client's own images; its weights change in place.

    Args:
        model: with its head, holding the weights to start from.
        data: of the client.
        options: of Lightning's trainer, see `Plan`.
        number: of the round, from 1.
        rounds: of the whole federation.
        epochs: epochs of a round.
        folder: where Lightning may write.
        stays: file for what stays with the owner, see `Recogniser.stays`.

    Raises:
        ValueError: the data or the options cannot be used; the message says why.
    """
    with quiet():
        trainer = L.Trainer(
            **client_trainer(dict(options)),
            max_epochs=rounds * epochs,  # what the schedule spans
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # the DataModule deals images to ranks itself
            default_root_dir=folder,
            callbacks=[FromRound(number, epochs, stays)],
        )
        model.train()
        begun = time.perf_counter()
        trainer.fit(model, datamodule=data)
        seconds = time.perf_counter() - begun
    # a trainer that has run cannot be sent to the next round's spawned ranks, and both hold on to it
    model.trainer, data.trainer = None, None
    found = trainer.callback_metrics
    return Trained(
        batches=round(float(found["federated/batches"])) * epochs,
        loss=float(found["federated/loss"]),
        lr=float(found.get("train/lr", float("nan"))),
        seconds=seconds,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's remarks on devices and hints on data loaders to itself, round after round."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero",
             "lightning.fabric.utilities.rank_zero", "lightning.fabric.utilities.seed")  # fmt: skip
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for noise in (r".*does not have many workers.*", r".*isinstance\(treespec, LeafSpec\).*",
                          r".*smaller than the logging interval.*"):  # fmt: skip
                warnings.filterwarnings("ignore", message=noise)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
