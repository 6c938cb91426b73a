"""What the three recognisers share: loss, optimiser, schedule, head, checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_app.core.batch import Batch, learnt
from lightning_app.core.draws import seed_from, seed_global_draws
from lightning_app.models.held_out import HeldOutMeans
from lightning_app.models.optimisers import decayed_groups, scheduled
from lightning_app.models.other_checkpoints import ORIGINS, Teacher, check_teacher, origins_in, start_from
from lightning_app.models.parts import (
    ClassWithArguments,
    backbone_maker,
    called,
    classes_of_data,
    describe_parts,
    has_dropout,
    head_maker,
    same,
)
from lightning_app.models.quick_log import QuickLog, learning_rate
from lightning_app.models.saved_network import black_level, check_network, head_weights, warn_of_kept
from lightning_app.models.schedule import Schedule, check_rates, check_shares
from lightning_app.networks import Backbone, Head
from lightning_app.networks.backbones import WIDTH, BackboneMaker, make_backbone
from lightning_app.networks.graphed import GraphedBackbone
from lightning_app.networks.heads import HeadMaker, NoHead, accuracy_of, classes_in, heaviest, make_head
from lightning_app.runs.checkpoint_bounds import DATA_STATE
from lightning_app.runs.trainer_options import total_steps

log = logging.getLogger("faceveil")
KEPT = ("lr", "momentum", "nesterov", "weight_decay", "schedule", "warmup")  # what a resumed optimiser keeps
_DROPOUT = 120  # salt of this draw


class Recogniser(QuickLog):
    """A backbone and a classification head; base of the public models.

    Args:
        backbone: a network of ours by name (resnet18, resnet34, resnet50, ir50, irse50), or one by `class_path` and
            `init_args`: a `lightning_app.networks.Backbone`.
        num_classes: identities of the training set; comes from the data in `fit` and from the checkpoint
            otherwise, so it is never written in a config.
        input_size: height and width of the images; comes from the data.
        in_channels: channels of the images; comes from the desensitizer.
        lr: learning rate at its highest (paper, 4.1: 0.01).
        momentum: momentum of SGD (paper, 4.1: 0.9).
        nesterov: whether SGD looks ahead.
        weight_decay: weight decay on convolution and linear weights; biases and batch norms are spared.
        label_smoothing: share of the target spread over all identities, 0 … 1.
        schedule: `step` (÷10 at 50, 70 and 90 % of all steps; paper, 4.1), `one_cycle`, `cosine`, `constant`.
        warmup: share of the run, 0 … 1, over which the rate rises.
        dropout: share of the embedding left out before the head, 0 … 1.
        channels_last: keep images and weights in NHWC, which is faster on most devices.
        compile: run the backbone through `torch.compile`.
        width: channels of the backbone's first stage, 64 by default; a smaller one makes a small network of it.
        head: the loss, by `class_path` and `init_args`: a `lightning_app.networks.Head`; by default `SoftmaxHead`.
        init_from: checkpoint (or run folder, or an export's safetensors) of another recogniser, whose backbone's
            weights training begins with; read in `fit` alone, and not where a run goes on.
        teacher: checkpoint (or run folder) of a recogniser of clean faces, as wide, whose embedding of the clean face
            is learnt too; needs `data.keep_clean`. What it gives away: docs/threat_model.md.
        distillation: weight of 1 − cosine to the teacher's embedding, beside the head's loss.
        cuda_graphs: launch the backbone's forward and backward as CUDA graphs: for small networks and batches, whose
            kernels take a GPU less time than launching them; in one process, on a GPU, else without effect.

    Raises:
        ValueError: backbone or head cannot be made, or do not go with the other settings.
    """

    why_not_exported: ClassVar[str] = ""  # of a model that no graph can stand for: why, and what to do

    def __init__(
        self,
        backbone: str | BackboneMaker = "resnet34",  # in this order: jsonargparse writes a name as it is
        num_classes: int | None = None,
        input_size: int = 224,
        in_channels: int = 3,
        lr: float = 0.01,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
        schedule: Schedule = "step",
        warmup: float = 0.0,
        dropout: float = 0.0,
        channels_last: bool = True,
        compile: bool = False,  # the name users know from torch
        width: int = WIDTH,
        head: HeadMaker | None = None,
        init_from: Path | None = None,
        teacher: Path | None = None,
        distillation: float = 0.0,
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__()
        check_rates(lr=lr, momentum=momentum, weight_decay=weight_decay)
        check_shares(warmup=warmup, label_smoothing=label_smoothing, dropout=dropout)
        if not distillation >= 0:
            raise ValueError(f"distillation={distillation}: give 0 or more")
        # no paths in a checkpoint
        self.save_hyperparameters(ignore=["backbone", "head", "init_from", "teacher"])
        self.init_from, self.teacher, self.distillation = init_from, teacher, distillation
        self.goes_on = False  # whether `fit` loads a checkpoint of this run, which then decides the weights
        self.origins: dict[str, str] = {}  # what it took from others: `init_from`, `teacher` → SHA-256
        self._teachers: list[Teacher] = []  # in a list: neither in the checkpoint nor in the optimiser
        self._read_others = False
        self.cuda_graphs = cuda_graphs
        self._graphed: list[GraphedBackbone] = []  # while training goes on, one
        self._keep_parts(backbone, head)
        self.lr, self.momentum, self.nesterov = lr, momentum, nesterov
        self.weight_decay, self.label_smoothing = weight_decay, label_smoothing
        self.schedule, self.warmup = schedule, warmup
        self.channels_last, self.width = channels_last, width
        self.backbone = self.configure_backbone(backbone_maker(backbone), input_size, in_channels)
        self.dropout = nn.Dropout(dropout)
        # without classes a placeholder: setup builds the data's in fit, on_load_checkpoint the checkpoint's
        self.head: Head = self.make_head(num_classes) if num_classes else NoHead(self.backbone.dim)
        self._held_out = HeldOutMeans("loss", "accuracy")
        self._headless_told = False
        self._steps = 0  # of the whole run, once it is known
        self._drops: bool | None = None  # whether there is dropout, once it was looked for
        self._lowest = 0.0  # what a black pixel becomes in training, where a checkpoint told
        if channels_last:
            self.backbone.to(memory_format=torch.channels_last)
        if compile:
            self.backbone.compile()

    def prepare_data(self) -> None:
        """Read what training takes from other recognisers, in `fit`, before a run is written.

        Raises:
            FileNotFoundError, ValueError: it cannot be used; the message says why.
        """
        if self.trainer.state.fn != "fit" or self._read_others:
            return
        if (self.teacher is None) != (self.distillation == 0):
            raise ValueError(
                f"model.teacher={self.teacher} and model.distillation={self.distillation}: give both, a checkpoint and "
                "a weight above 0, or neither"
            )
        data = getattr(self.trainer, "datamodule", None)
        if self.teacher is not None:
            self._teachers = [Teacher(self.teacher, self.backbone.dim, data)]
            self.origins["teacher"] = self._teachers[0].sha256
        if self.init_from is not None and not self.goes_on:
            self.origins["init_from"] = start_from(self.init_from, self.backbone, data)
        self._read_others = True

    def on_train_start(self) -> None:
        """Move the teacher to the device, where this model now is, and get ready to capture CUDA graphs."""
        for teacher in self._teachers:
            teacher.to(self)
        if not self.cuda_graphs or self.device.type != "cuda":
            return
        if self.trainer.world_size > 1 or self.trainer.accumulate_grad_batches > 1:
            log.warning(
                "model.cuda_graphs: not with several processes or accumulate_grad_batches: as usual then."
            )
        if self.trainer.world_size > 1:
            return
        self._graphed = [GraphedBackbone(self.backbone)]

    def on_train_end(self) -> None:
        """Let the captured graphs and their memory go."""
        self._graphed = []

    def setup(self, stage: str) -> None:
        """Build the head for the training set's identities, in `fit`.

        Raises:
            ValueError: neither `num_classes` nor a DataModule that knows it is given; see also `prepare_data`.
        """
        if stage == "fit":
            self.prepare_data()  # which ran on one rank alone
        if stage != "fit" or self.head.num_classes:
            return
        self.head = self.make_head(classes_of_data(self.trainer))

    def make_head(self, classes: int) -> Head:
        """Make a new head for this backbone, of the kind that the settings ask for.

        Args:
            classes: how many it tells apart.

        Raises:
            ValueError: it cannot be made.
        """
        return make_head(self._head_maker, self.backbone.dim, classes, self.label_smoothing)

    def classes_in(self, state: Mapping[str, Tensor]) -> int | None:
        """Return how many classes a recogniser's saved weights are for, by the head that would take them.

        Args:
            state: of a recogniser's `state_dict`.

        Returns:
            The number; None where the weights come without a head, or with one of another kind.
        """
        own = head_weights(state)
        return classes_in(self._head_maker, self.backbone.dim, own) if own else None

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make dropout and the head's state functions of the step, so that a resumed run does what the whole one did.

        Dropout, this one's or one within the backbone, draws by (seed, step, rank).
        """
        self.head.at(self.global_step / self._steps if self._steps else 1.0)
        if self._drops is None:  # looked for once, not at every step
            self._drops = has_dropout(self)
        if self._drops:
            seed = int(getattr(getattr(self.trainer, "datamodule", None), "seed", 0))
            seed_global_draws(seed_from(_DROPOUT, seed, self.global_step, self.global_rank))

    def configure_backbone(
        self, backbone: BackboneMaker | str, input_size: int, in_channels: int
    ) -> Backbone:
        """Build the network; models that gate override this."""
        made = make_backbone(backbone, in_channels, input_size, self.width)
        return made.place_gates((), input_size)  # none; but too small images are refused

    def embed(self, image: Tensor, mask: Tensor | None = None, mask_index: Tensor | None = None) -> Tensor:
        """Embed normalised images: the avgpool output, the head dropped (paper, 4.1).

        Args:
            image: `[B,C,H,W]`, normalised.
            mask: `[M,1,H,W]`, 1 = visible; None means all visible.
            mask_index: `[B]` int64 into the masks.

        Returns:
            `[B,D]` embeddings, not normalised.
        """
        if self._lowest < 0 and not self.training:
            self._check_normalised(image)
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        # gradients that a graph gives lie where its next ones will: they cannot be added up over steps, which a
        # scheduler may ask for at any epoch
        graphs = self._graphed and self.training and self.trainer.accumulate_grad_batches == 1
        run = self._graphed[0] if graphs else self.backbone
        embedding: Tensor = run(image, mask, mask_index)
        return embedding

    def rehearse(self, image: Tensor, mask: Tensor, mask_index: Tensor, pixels: int) -> Tensor:
        """Embed made-up images: a step's pass, but for the head, for how long a run takes.

        Args:
            image: `[B,C,H,W]`.
            mask: `[M,1,H,W]`.
            mask_index: `[B]` int64 into the masks.
            pixels: the side of the raw faces; not needed.
        """
        return self.embed(image, mask, mask_index).square().mean()

    def _check_normalised(self, image: Tensor) -> None:
        """Warn, of the first images alone, where they look like pixels in [0,1] or 0 … 255."""
        self._lowest = 0.0
        if len(image) and float(image.detach().amin()) >= 0:
            log.warning(
                "The images have no value below 0, as if they were not normalised: the embeddings are then others than "
                "in training, without any error. Take `lightning_app.load_recogniser(run).embed_images(uint8 pixels)`."
            )

    def forward(self, image: Tensor, mask: Tensor | None = None, mask_index: Tensor | None = None) -> Tensor:
        """Return the logits `[B, num_classes]` of normalised images; arguments as in `embed`."""
        return self.head.logits(self.dropout(self.embed(image, mask, mask_index)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch and log it with its accuracy."""
        loss, logits, accuracy, embedding = self._judged(batch)
        rate = learning_rate(self.trainer)
        anew, self._log_anew = self._log_anew or batch_idx == 0, False
        for teacher in self._teachers:
            if "weight" in batch:
                raise ValueError(
                    "model.teacher: data.desensitizer mixes images, and a mixed one has no clean face to be like; "
                    "leave teacher and distillation out"
                )
            far = teacher.loss(embedding, batch["clean"])
            loss = loss + self.distillation * far
            self.note(anew, "train/distillation", far.detach(), len(logits))
        self.note(anew, "train/loss", loss.detach(), len(logits), prog_bar=True)
        self.note(anew, "train/lr", rate, 1)
        for name, value in (("train/accuracy", accuracy), ("train/mean_loss", loss.detach())):
            self.note(anew, name, value, len(logits), on_epoch=True, on_step=False, sync_dist=True)
        return loss

    def logged(self, held_out: bool) -> set[str]:
        """Return the log keys of a training; for a class with a `training_step` of its own it does not speak.

        Args:
            held_out: whether images of the training people are held out to validate on.
        """
        keys = {"train/loss", "train/mean_loss", "train/lr", "train/accuracy"}
        keys |= {"val/loss", "val/accuracy"} if held_out else set()
        return keys | ({"train/distillation"} if self.distillation else set())

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor] | None:
        """Count loss and accuracy of held-out images of training identities; the batch may be empty.

        Without a head, as in the checkpoint of owners who keep theirs, there are none.

        Returns:
            For callbacks, `logits [B,classes]` and `target [B]`; None where there are none, or where labels are mixed.
        """
        return self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor] | None:
        """Count and return what `validation_step` does."""
        return self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Log `val/loss` and `val/accuracy`, over the images of all ranks; nothing where there are none."""
        self._held_out.log(self, "val")

    def on_test_epoch_end(self) -> None:
        """Log `test/loss` and `test/accuracy`, as after a validation."""
        self._held_out.log(self, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the embeddings `[B,D]` of a batch with identities, image numbers and, of a task, its classes."""
        if len(batch["image"]) == 0:  # a rank without images
            embedding = batch["image"].new_empty(0, self.backbone.dim)
        else:
            embedding = self.embed(batch["image"], batch["mask"], batch["mask_index"])
        kept = {"embedding": embedding.float(), "identity": batch["identity"], "index": batch["index"]}
        if "target" in batch:
            kept["target"] = batch["target"]
        return {key: value.cpu() for key, value in kept.items()}

    def _evaluate(self, batch: Batch) -> dict[str, Tensor] | None:
        if len(batch["image"]) == 0:  # a rank without held-out images, or a set without
            return None
        if not self.head.num_classes:
            if not self._headless_told:
                log.warning(
                    "The checkpoint has no head (its owners keep theirs): no loss and accuracy of held-out images."
                )
            self._headless_told = True
            return None
        loss, logits, accuracy, _ = self._judged(batch)
        self._held_out.add({"loss": loss, "accuracy": accuracy}, len(logits))
        target, weight = learnt(batch)
        return {"logits": logits, "target": target} if weight is None else None

    def _judged(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return loss, logits `[B,classes]`, accuracy and embeddings `[B,D]` of a batch."""
        target, weight = learnt(batch)
        embedding = self.embed(batch["image"], batch["mask"], batch["mask_index"])
        loss, logits = self.head(self.dropout(embedding), target, weight)
        return loss, logits, accuracy_of(logits, heaviest(target, weight)), embedding

    def configure_optimizers(self) -> Any:  # Lightning's own union is not expressible in strict mypy
        """Return SGD and the schedule over all steps of the run (paper, 4.1)."""
        optimizer = torch.optim.SGD(
            self.parameter_groups(), lr=self.lr, momentum=self.momentum, nesterov=self.nesterov
        )
        self._steps = total_steps(self.trainer, f"schedule={self.schedule}")
        return scheduled(optimizer, self._steps, self.schedule, self.warmup)

    def stays(self) -> dict[str, Tensor]:
        """Return what of it stays with its owner in a federation, beside a private head; nothing here."""
        return {}

    def take_back(self, state: Mapping[str, Tensor]) -> None:
        """Go on with what stayed after an earlier round.

        Args:
            state: what `stays` returned then; empty where there was no earlier round.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what the optimiser learns: weights, which decay, and biases and batch norms, which do not."""
        return decayed_groups(self.parameters(), self.weight_decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the hashes of what was taken from others."""
        if self.origins:
            checkpoint[ORIGINS] = dict(self.origins)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the head's size from the checkpoint and refuse another network's weights in one line.

        Raises:
            ValueError: the checkpoint holds another network, or (in `fit`) another number of identities.
        """
        state: dict[str, Tensor] = checkpoint["state_dict"]
        saved, own = checkpoint.get("hyper_parameters", {}), self.hparams
        check_network(state, saved, self.backbone, own)
        self._lowest = black_level(checkpoint.get(DATA_STATE))
        fitting = self._trainer is not None and self.trainer.state.fn == "fit"
        origins = origins_in(checkpoint)
        check_teacher(origins, self._teachers, saved, self.distillation, fitting)
        self.origins = origins | ({"teacher": self.origins["teacher"]} if self._teachers else {})
        if not head_weights(state):  # its owners keep theirs
            return
        count = self.classes_in(state) if same(saved.get("head"), own.get("head")) else None
        if count is None or not self._takes_head(state, count):
            held, yours = called(saved.get("head")), called(own.get("head"))
            raise ValueError(
                f"this checkpoint has another head ({held}; yours: {yours}, or other settings of it): use the config "
                "it was trained with"
            )
        if fitting:
            warn_of_kept(KEPT, saved, own)
            self.schedule, self.warmup = own["schedule"], own["warmup"]
        if self.head.num_classes and count != self.head.num_classes:
            if fitting:
                raise ValueError(
                    f"this checkpoint knows {count} identities, the training set has "
                    f"{self.head.num_classes}: go on with the set it was trained on, or start anew with "
                    "--overwrite"
                )
            log.info("The head has the checkpoint's %d identities.", count)
        if count != self.head.num_classes:
            self.head = self.make_head(count).to(self.device)

    def _takes_head(self, state: Mapping[str, Tensor], classes: int) -> bool:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            mine = self.make_head(classes).state_dict()
        return {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in head_weights(state).items()}

    def _keep_parts(
        self, backbone: BackboneMaker | ClassWithArguments | str, head: HeadMaker | ClassWithArguments | None
    ) -> None:
        """Note what makes backbone and head, and describe them in plain values for the checkpoint."""
        self._head_maker = head_maker(head)
        self.save_hyperparameters(describe_parts(backbone, head))
