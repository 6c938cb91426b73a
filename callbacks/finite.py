"""A loss that is no number ends the run, and says where it came from."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from callbacks.place import steps_done
from lightning_app.runs.folder import LAST, has_checkpoint

_SHOWN = 32  # image numbers in the message; the checkpoint has them all


class NonFiniteLoss(ValueError):
    """The loss of a batch, or a weight, is NaN or infinite."""


@dataclass(frozen=True)
class _LossOfStep:
    """One batch; steps and epochs count from 0, as the CSV does."""

    number: int
    epoch: int
    lr: float
    index: Tensor | None


class _Reading:
    """A loss on its way to the host.

    On CUDA it is copied behind the step's other work, and nobody waits for it; elsewhere it is read at once.
    """

    def __init__(self, loss: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        if loss.is_cuda:
            self._value = torch.empty((), dtype=torch.float32, pin_memory=True)
            self._value.copy_(loss.detach().squeeze(), non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._value = loss.detach().float().cpu()

    def ready(self) -> bool:
        """Return whether it has arrived."""
        return self._arrived is None or self._arrived.query()

    def value(self) -> float:
        """Wait for it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return float(self._value)


class FiniteLoss(L.Callback):
    """End `fit` at a loss that is NaN or infinite: step, images and rank in one line, and a checkpoint.

    The checkpoint, `checkpoints/nonfinite.ckpt` (`nonfinite.rank1.ckpt` of another rank than zero), is for the
    post-mortem; beside what every checkpoint has, its `nonfinite` holds `loss`, `step`, `epoch` (both from 0),
    `rank`, `lr` and `index`, the numbers of the batch's images in their reader. `last.ckpt` stays as it was, and
    no checkpoint is written of weights that are not finite.

    Only the loss ends a run. Under `16-mixed` infinite gradients are the loss scaler's daily bread: it skips
    their step and lowers its scale. The scaled loss, which may overflow, is not looked at.

    On the CPU the loss is read before the backward pass, so that the weights are the last finite ones (running
    averages of batch norms have the batch in them already). Under a loss scaler it is read after the step, which
    the scaler has skipped if the gradients were not finite. On a GPU nobody waits for it: every step's loss is
    copied to the host behind the step's other work and judged when it has arrived, a step or a few later, with
    the image numbers of those few batches kept; by then the weights in `nonfinite.ckpt` have made the step. A
    checkpoint and a validation first wait for what is under way.

    Under DDP each rank judges its own loss. The one that fails writes its checkpoint with no word to the others
    and raises; ending them is the launcher's part.

    Raises:
        NonFiniteLoss: a `ValueError`, hence one line and exit code 1 on the command line.
    """

    def __init__(self) -> None:
        super().__init__()
        self._step: _LossOfStep | None = None
        self._judged = False
        self._under_way: deque[tuple[_LossOfStep, _Reading]] = deque()
        self._failed = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget an earlier fit."""
        self._under_way.clear()
        self._failed = False

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the batch's image numbers."""
        index = batch.get("index") if isinstance(batch, Mapping) else None
        lr = float(trainer.optimizers[0].param_groups[0]["lr"]) if trainer.optimizers else math.nan
        self._step = _LossOfStep(steps_done(trainer), trainer.current_epoch, lr, index)
        self._judged = False

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Judge the loss, on the CPU, before it reaches the weights."""
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if loss.device.type == "cpu" and not scaled and self._step is not None:
            self._judged = True
            self._judge(trainer, pl_module, self._step, loss.item())

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Send for the loss, and judge those that have arrived."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and not self._judged and self._step is not None:
            self._under_way.append((self._step, _Reading(loss)))
        self._look(trainer, pl_module, wait=False)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Judge what is under way, before a spoilt model is measured."""
        self._look(trainer, pl_module, wait=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Judge what is under way."""
        self._look(trainer, pl_module, wait=True)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to write weights that are not finite over those that are.

        Raises:
            NonFiniteLoss: a weight, or a loss under way, is not finite.
        """
        if self._failed:  # this is its own checkpoint, or one written while the run ends
            return
        self._look(trainer, pl_module, wait=True)
        if not _finite(pl_module):
            # a rank's own loss may be finite still when another's has spoilt the gradients of all
            raise NonFiniteLoss(
                f"the weights are not finite after {steps_done(trainer)} steps (rank {trainer.global_rank}): no "
                f"checkpoint is written. {_advice(trainer, pl_module)}"
            )

    def _look(self, trainer: L.Trainer, pl_module: L.LightningModule, wait: bool) -> None:
        while self._under_way and (wait or self._under_way[0][1].ready()):
            step, reading = self._under_way.popleft()
            self._judge(trainer, pl_module, step, reading.value())

    def _judge(
        self, trainer: L.Trainer, pl_module: L.LightningModule, step: _LossOfStep, loss: float
    ) -> None:
        if math.isfinite(loss):
            return
        self._failed = True
        numbers: list[int] = [] if step.index is None else step.index.flatten().tolist()
        rank = trainer.global_rank
        description = {"loss": loss, "step": step.number, "epoch": step.epoch, "rank": rank, "lr": step.lr,
                 "index": numbers}  # fmt: skip
        name = "nonfinite.ckpt" if rank == 0 else f"nonfinite.rank{rank}.ckpt"
        path = Path(trainer.default_root_dir) / LAST.parent / name
        trying = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        kept = "fast_dev_run writes no checkpoint" if trying else _keep(trainer, path, description)
        images = ", ".join(map(str, numbers[:_SHOWN])) or "not known"
        more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
        raise NonFiniteLoss(
            f"the loss is {loss} at step {step.number} of epoch {step.epoch} (counted from 0; rank {rank}, lr "
            f"{step.lr:g}), images {images}{more}. {kept}. {_advice(trainer, pl_module)}"
        )


def _keep(trainer: L.Trainer, path: Path, description: dict[str, Any]) -> str:
    """Write the checkpoint of a spoilt step; give words on where it is."""
    try:
        # trainer.save_checkpoint would wait for the other ranks, which know nothing
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        trainer.strategy.checkpoint_io.save_checkpoint({**state, "nonfinite": description}, path)
    except OSError as error:
        return f"{path} could not be written ({error})"
    return f"Weights and batch are in {path}"


def _advice(trainer: L.Trainer, pl_module: L.LightningModule) -> str:
    rate = "learning_rate" if "learning_rate" in pl_module.hparams else "lr"
    anew = f"start anew (--overwrite) with a lower --model.{rate}"
    if not has_checkpoint(Path(trainer.default_root_dir)):
        return f"No checkpoint was written before it: {anew}"
    # a resumed optimiser keeps its rate, see Recogniser.on_load_checkpoint
    return (
        f"{LAST.name} is of before it, and the same settings come to the same step again: go on with --ckpt_path "
        f"last and --trainer.gradient_clip_val 1 or another --trainer.precision, or {anew}"
    )


def _finite(module: L.LightningModule) -> bool:
    """Return whether every weight is finite; one pass over them, and one look at the device."""
    with torch.no_grad():
        sums = [p.sum(dtype=torch.float32) for p in module.parameters()]  # NaN and inf survive a sum
        return not sums or bool(torch.stack(sums).isfinite().all())
