"""The third paper's masker: a U-Net learns which pixels a predictor needs, and to leave nothing in the others."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_app.core.batch import Batch, learnt
from lightning_app.core.draws import seed_from, seed_global_draws
from lightning_app.core.normalise import denormalised, normalised
from lightning_app.desensitize.masker import MASKER
from lightning_app.masks.learned import Growth, grown, masker_input, shown_pixels
from lightning_app.models.batch_counter import BatchCounter
from lightning_app.models.held_out import HeldOutMeans
from lightning_app.models.masker_cut import Cut, Weights, cut, frozen
from lightning_app.models.masker_means import CHUNK, chosen_faces, mean_masks
from lightning_app.models.masker_settings import (
    KEPT,
    Adversary,
    check_data,
    check_settings,
    check_strategy,
    check_used,
    kept_of_same,
)
from lightning_app.models.optimisers import decayed_groups, scheduled
from lightning_app.models.parts import (
    backbone_maker,
    classes_of_data,
    describe_parts,
    has_dropout,
    head_maker,
)
from lightning_app.models.quick_log import QuickLog, learning_rate
from lightning_app.models.saved_network import head_weights, warn_of_kept
from lightning_app.models.schedule import Schedule, check_rates, check_shares
from lightning_app.networks import Head
from lightning_app.networks.backbones import WIDTH, BackboneMaker, make_backbone
from lightning_app.networks.heads import HeadMaker, NoHead, accuracy_of, classes_in, heaviest, make_head
from lightning_app.networks.unet import UNet, check_unet
from lightning_app.runs.trainer_options import total_steps

log = logging.getLogger("faceveil")
_DROPOUT = 121  # salt of this draw


class AdversarialMasker(QuickLog):
    """Learn masks: a masker chooses the pixels that a predictor is shown, and an adversary looks at the rest.

    Of every `predictor_steps` + 1 batches all but the last are the predictor's: masker and predictor learn to tell the
    classes by the shown pixels. The last is the adversary's, in which the masker alone learns: so that the
    predictor, its weights and batch norm frozen, tells nothing by the hidden pixels (`obfuscator`, the paper's).

    Trained by `fit` on a `FaceDataModule` whose images are not desensitized; `lightning_app.desensitize.LearnedMask`
    takes its checkpoint. One optimiser steps once a batch, so that schedules, `trainer.max_steps` and
    `every_n_steps` count batches. On several GPUs: `trainer.strategy: ddp_find_unused_parameters_true`.

    Logs `train/loss`, `train/accuracy`, `train/lr`, and the adversary's `train/confusion`; of held-out images
    `val/loss` and `val/accuracy` of the predictor under binary masks, and `masker/accuracy_hidden`, its accuracy on
    what they hide. That is no proof of anything: a network trained anew on the hidden part, or on the masks alone,
    may do as well as one that sees the images (docs/masks.md).

    Args:
        backbone: the predictor's: a network of ours by name, or one by `class_path` and `init_args`.
        num_classes: classes of the predictor; comes from the data.
        input_size: height and width of the images; comes from the data.
        in_channels: channels of the images; comes from the desensitizer, which must give pictures.
        share: share of the pixels that are shown, in (0,1): the paper's K.
        weights: what shown pixels are multiplied by in training: `straight_through`, 1, with the gradient of the soft
            mask; `soft`, the soft mask, as in the paper. What is released is binary in any case.
        adversarial: False leaves the adversary's steps out, as the paper's baseline does.
        adversary: `obfuscator`; or `restorer`, a small U-Net that learns to draw the hidden part from the shown one,
            against which the masker hides what cannot be drawn. For identity the obfuscator is misdirected: it pushes
            all that identifies into the shown part.
        predictor_steps: batches of the predictor to one of the adversary (paper: 3).
        rounds: 0 makes masks of whole images. With more, masks grow in so many rounds from a core around the centre,
            each of which looks at what is shown already: for `LearnedMask` of kind `core_first`.
        core: where there are `rounds`, share of the shown pixels that the core takes, in [0,1).
        masker_width: channels of the masker's outermost maps, 8 or more.
        masker_depth: how often its maps are halved.
        lr: the predictor's learning rate at its highest.
        masker_lr: the masker's (and a restorer's) at its highest.
        weight_decay: weight decay of AdamW, on convolution and linear weights.
        schedule: how both rates change over the run: `step`, `one_cycle`, `cosine`, `constant`.
        warmup: share of the run, 0 … 1, over which the rates rise.
        faces: K: training images that the mean mask and the codebook are made of, after every epoch; 16 or more.
        codes: C: masks of the codebook. A mask that fewer than five faces stand behind is left out.
        channels_last: keep images and weights in NHWC, which is faster on most devices.
        width: channels of the backbone's first stage.
        head: the predictor's loss, by `class_path` and `init_args`; by default `SoftmaxHead`.

    Raises:
        ValueError: an argument is out of range, or backbone or head cannot be made.

    Source: Gupta et al., Adversarial Mask Generation for Preserving Visual Privacy, section II. AdamW, frozen
    batch norm in the adversary's step and rounds are ours (docs/architecture.md).
    """

    def __init__(
        self,
        backbone: str | BackboneMaker = "resnet18",  # in this order: jsonargparse writes a name as it is
        num_classes: int | None = None,
        input_size: int = 224,
        in_channels: int = 3,
        share: float = 0.25,
        weights: Weights = "straight_through",
        adversarial: bool = True,
        adversary: Adversary = "obfuscator",
        predictor_steps: int = 3,
        rounds: int = 0,
        core: float = 0.25,
        masker_width: int = 16,
        masker_depth: int = 4,
        lr: float = 1e-3,
        masker_lr: float = 1e-3,
        weight_decay: float = 1e-4,
        schedule: Schedule = "one_cycle",
        warmup: float = 0.0,
        faces: int = 256,
        codes: int = 16,
        channels_last: bool = True,
        width: int = WIDTH,
        head: HeadMaker | None = None,
    ) -> None:
        super().__init__()
        check_rates(lr=lr, masker_lr=masker_lr, weight_decay=weight_decay)
        check_shares(warmup=warmup)
        check_unet(masker_width, masker_depth, "masker_width", "masker_depth")
        check_settings(in_channels, share, weights, adversary, {
            "predictor_steps": predictor_steps, "faces": faces, "codes": codes,
        })  # fmt: skip
        self.save_hyperparameters(ignore=["backbone", "head"])
        self.save_hyperparameters(describe_parts(backbone, head))
        self.share, self.weights, self.growth = share, weights, Growth(rounds, core)
        self.adversarial, self.adversary, self.predictor_steps = adversarial, adversary, predictor_steps
        self.lr, self.masker_lr, self.weight_decay = lr, masker_lr, weight_decay
        self.schedule, self.warmup, self.channels_last = schedule, warmup, channels_last
        self.faces, self.codes = faces, codes
        check_used(self.hparams)
        self.shown = shown_pixels(share, input_size)
        self.masker = UNet(3, 1, masker_width, masker_depth)
        self.backbone = make_backbone(backbone_maker(backbone), in_channels, input_size, width)
        self.backbone.place_gates((), input_size)  # none; but too small images are refused
        self._head_maker = head_maker(head)
        self.head: Head = self._make_head(num_classes) if num_classes else NoHead(self.backbone.dim)
        draws = adversarial and adversary == "restorer"
        self.restorer = UNet(3, 3, masker_width, masker_depth) if draws else None
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self.batches = BatchCounter()
        self._means: dict[str, Tensor] = {}  # the mean mask and the codebook, of the last epoch's end
        self._held_out = HeldOutMeans("loss", "accuracy")
        self._hidden_part = HeldOutMeans("accuracy_hidden")
        self._last: dict[str, Tensor] = {}  # metrics of the last step of each kind
        self._steps, self._drops = 0, False

    # -- before training

    def prepare_data(self) -> None:
        """Check that the data suit a masker, before a run is written.

        Raises:
            ValueError: they give no pictures, or mix them, or several devices would wait for gradients that there are
                none of; the message says what to change.
        """
        fitting = self.trainer.state.fn == "fit"
        check_data(getattr(self.trainer, "datamodule", None), fitting)
        if fitting and self.adversarial:
            check_strategy(self.trainer)

    def setup(self, stage: str) -> None:
        """Build the predictor's head for the classes of the training set, in `fit`.

        Raises:
            ValueError: neither `num_classes` nor a DataModule that knows it is given; see also `prepare_data`.
        """
        self.prepare_data()
        if stage != "fit" or self.head.num_classes:
            return
        self.head = self._make_head(classes_of_data(self.trainer))

    def _make_head(self, classes: int) -> Head:
        return make_head(self._head_maker, self.backbone.dim, classes, 0.0)

    def on_fit_start(self) -> None:
        """Look for dropout, once."""
        self._drops = has_dropout(self)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make dropout and the head's state functions of the batch's number: a resumed run goes on as it was."""
        self.head.at(self.batches.done / self._steps if self._steps else 1.0)
        if self._drops:
            seed = int(getattr(getattr(self.trainer, "datamodule", None), "seed", 0))
            seed_global_draws(seed_from(_DROPOUT, seed, self.batches.done, self.global_rank))

    # -- steps

    @property
    def adversarys_turn(self) -> bool:
        """Whether the batch under way is the adversary's."""
        return self.adversarial and self.batches.place(self.predictor_steps + 1) == self.predictor_steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch: the predictor's, or in the adversary's turn the masker's against it."""
        image = self._pictures(batch)
        cut = self.cut(image)
        if self.adversarys_turn:
            loss = (
                self._against_restorer(image, cut)
                if self.restorer
                else self._against_predictor(image, cut, batch)
            )
            self._last["train/confusion"] = loss.detach()
        else:
            target, weight = learnt(batch)
            loss, logits = self.head(self._embedding(image, cut.shown, batch), target, weight)
            self._last["train/loss"] = loss.detach()
            accuracy = accuracy_of(logits, heaviest(target, weight))
            if self.restorer is not None:
                drawn = self._drawing_error(image, cut.mask, 1 - cut.mask)
                self._last["train/restorer"] = drawn.detach()
                loss = loss + drawn
        anew, self._log_anew = self._log_anew, False
        rate = learning_rate(self.trainer)
        # metrics of the other kind of step stay: every row of the log then has all
        for name, value in (self._last | {"train/lr": rate}).items():
            self.note(anew, name, value, len(image), prog_bar=name == "train/loss")
        if not self.adversarys_turn:
            self.note(
                anew, "train/accuracy", accuracy, len(image), on_epoch=True, on_step=False, sync_dist=True
            )
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and count the batch."""
        super().optimizer_step(*args, **kwargs)
        self.batches.count()

    def cut(self, image: Tensor) -> Cut:
        """Split pictures into what is shown and what is hidden, with the masker's gradient in both.

        Args:
            image: `[B,3,H,W]` in [0,1].
        """
        return cut(self.masker, image, self.shown, self.growth, self.weights)

    def _embedding(self, image: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        """Embed weighted pictures as the predictor sees them: normalised, hidden pixels black."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        seen = normalised(image * weights, data.mean, data.std).to(batch["image"].dtype)
        if self.channels_last:
            seen = seen.contiguous(memory_format=torch.channels_last)
        embedding: Tensor = self.backbone(seen)
        return embedding

    def _against_predictor(self, image: Tensor, cut: Cut, batch: Batch) -> Tensor:
        """Return the cross-entropy of the uniform distribution and the predictor's, of the hidden part."""
        with frozen(self.backbone, self.head):
            logits = self.head.logits(self._embedding(image, cut.hidden, batch))
        return -F.log_softmax(logits.float(), dim=1).mean()

    def _against_restorer(self, image: Tensor, cut: Cut) -> Tensor:
        """Return minus the error of what the restorer draws of the hidden part."""
        assert self.restorer is not None
        with frozen(self.restorer):
            return -self._drawing_error(image, cut.shown, cut.hidden)

    def _drawing_error(self, image: Tensor, shown: Tensor, hidden: Tensor) -> Tensor:
        """Return the mean absolute error, over hidden pixels, of what the restorer draws from shown ones."""
        assert self.restorer is not None
        drawn = self.restorer(masker_input(image, shown)).sigmoid()
        error: Tensor = ((drawn - image).abs().mean(1, keepdim=True) * hidden).mean()
        return error / (1 - self.shown / hidden[0].numel())

    def _pictures(self, batch: Batch) -> Tensor:
        """Undo the DataModule's normalisation: `[B,3,H,W]` float32 in [0,1]."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        pictures: Tensor = denormalised(batch["image"], data.mean, data.std).clamp(0, 1)
        if self.channels_last:
            pictures = pictures.contiguous(memory_format=torch.channels_last)
        return pictures

    def forward(self, image: Tensor) -> Tensor:
        """Return the mask of each picture, as its training grows them.

        Args:
            image: `[B,3,H,W]` in [0,1].

        Returns:
            `[B,1,H,W]` of 0 and 1, 1 = visible.
        """
        return grown(self.masker, image, self.shown, self.growth)[0]

    @torch.no_grad()
    def masks_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the pictures of a batch `[B,3,H,W]` in [0,1] and their masks `[B,1,H,W]`.

        Args:
            batch: as a `FaceDataModule` gives it, normalised.
        """
        image = self._pictures(batch)
        return image, self(image)

    # -- held-out images

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the predictor's loss and accuracy under binary masks, and its accuracy on what they hide."""
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count what `validation_step` counts."""
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Log it, over the images of all ranks; nothing where there are none."""
        self._held_out.log(self, "val")
        self._hidden_part.log(self, "masker")

    def on_test_epoch_end(self) -> None:
        """Log it, as after a validation."""
        self._held_out.log(self, "test")
        self._hidden_part.log(self, "masker")

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Refuse: embeddings are a recogniser's.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "predict writes embeddings, an AdversarialMasker has none; desensitize with LearnedMask and its checkpoint"
        )

    def _evaluate(self, batch: Batch) -> None:
        if len(batch["image"]) == 0 or not self.head.num_classes:  # a rank without held-out images
            return
        image, mask = self.masks_of(batch)
        target, weight = learnt(batch)
        right = heaviest(target, weight)
        loss, logits = self.head(self._embedding(image, mask, batch), target, weight)
        hidden = self.head.logits(self._embedding(image, 1 - mask, batch))
        accuracy, other = (accuracy_of(one, right) for one in (logits, hidden))
        self._held_out.add({"loss": loss, "accuracy": accuracy}, len(image))
        self._hidden_part.add({"accuracy_hidden": other}, len(image))

    # -- the mean mask and the codebook

    def on_train_epoch_end(self) -> None:
        """Make the mean mask and the codebook anew: rank zero does, whose batch norm the checkpoint keeps."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        made = {}
        if self.trainer.is_global_zero:
            faces = chosen_faces(len(data.training), self.faces, data.seed)
            parts = (data.training.__getitems__(part.tolist())["image"] for part in faces.split(CHUNK))
            pictures = (self._pictures(data.prepare(part.to(self.device))) for part in parts)
            made = mean_masks(self.masker, pictures, self.shown, self.growth, self.codes)
        self._means = self.trainer.strategy.broadcast(made)

    @property
    def mean_mask(self) -> Tensor | None:
        """`[H,W]` in [0,1], the mean soft mask over K training faces; None before the first epoch's end."""
        return self._means.get("mean")

    # -- optimiser and checkpoint

    def configure_optimizers(self) -> Any:  # Lightning's own union is not expressible in strict mypy
        """Return AdamW and the schedule over all batches of the run.

        One optimiser serves all networks: those that have no gradient in a batch, as the predictor in the adversary's
        turn, it leaves as they are, their moments and weight decay included.
        """
        parts: list[tuple[float, list[nn.Module]]] = [(self.lr, [self.backbone, self.head])]
        parts += [(self.masker_lr, [self.masker])]
        parts += [(self.masker_lr, [self.restorer])] if self.restorer is not None else []
        groups = []
        for rate, modules in parts:
            weights = [p for module in modules for p in module.parameters()]
            groups += decayed_groups(weights, self.weight_decay, lr=rate)
        optimizer = torch.optim.AdamW(groups)
        self._steps = total_steps(self.trainer, f"schedule={self.schedule}")
        return scheduled(optimizer, self._steps, self.schedule, self.warmup)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the number of batches, the mean mask and the codebook."""
        faces = self._means.get("faces")
        checkpoint[MASKER] = {
            **self.batches.state(), "mean": self._means.get("mean"), "codes": self._means.get("codes"),
            "faces": None if faces is None else int(faces),
        }  # fmt: skip

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the checkpoint's batch; refuse another network's weights in one line.

        Raises:
            ValueError: the checkpoint holds another network, or another model's.
        """
        saved, kept = checkpoint.get("hyper_parameters", {}), kept_of_same(checkpoint, self.hparams)
        state = checkpoint["state_dict"]
        own = head_weights(state)
        count = classes_in(self._head_maker, self.backbone.dim, own) if own else None
        fits = self._trainer is not None and self.trainer.state.fn == "fit"
        if fits and self.head.num_classes and count != self.head.num_classes:
            raise ValueError(
                f"this checkpoint knows {count} classes, the training set has {self.head.num_classes}: go on with the "
                "set it was trained on, or start anew with --overwrite"
            )
        if count is not None and count != self.head.num_classes:
            self.head = self._make_head(count).to(self.device)
        self.batches.load(kept)
        if kept.get("mean") is not None:
            self._means = {"mean": kept["mean"], "codes": kept["codes"], "faces": torch.tensor(kept["faces"])}
        if fits:
            warn_of_kept(KEPT, saved, self.hparams)
            self.schedule, self.warmup = self.hparams["schedule"], self.hparams["warmup"]
