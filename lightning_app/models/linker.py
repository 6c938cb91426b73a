"""The attacker that restores nothing: a student of what is released, and of a recogniser's clean embeddings."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_app.attacks.link import KEPT, SHAPE, student_state
from lightning_app.core.batch import Batch
from lightning_app.core.image_memory import ImageMemory
from lightning_app.core.normalise import denormalised, normalised
from lightning_app.models.bits import check_bit_planes
from lightning_app.models.held_out import HeldOutMeans
from lightning_app.models.optimisers import scheduled
from lightning_app.models.other_checkpoints import read_teacher
from lightning_app.models.quick_log import learning_rate
from lightning_app.models.saved_network import check_attacker, warn_of_kept
from lightning_app.models.schedule import Schedule, check_rates
from lightning_app.networks.linking import LinkStudent
from lightning_app.runs.trainer_options import total_steps

log = logging.getLogger("faceveil")
_DIM = 512  # of embeddings, where the teacher is not read yet


class Linker(L.LightningModule):
    """A student that embeds what a method releases where a recogniser of clean faces embeds the face.

    Trained by `fit` with a `FaceDataModule` whose `keep_clean` is on and whose desensitizer is the one attacked, on
    faces the attacker may see; pictures and representations alike. The loss is 1 − cosine. With no desensitizer it
    learns from clean faces alone: the ceiling that its metrics are read beside. Afterwards
    `lightning_app.attacks.LinkAttack` attacks with its checkpoint. Logs `train/loss`, and on held-out images
    `link/similarity`, the mean cosine.

    Args:
        teacher: a recogniser of clean faces: its checkpoint, an export's safetensors or its run's folder, or a judge
            by `class_path` (`lightning_app.evaluation.OnnxJudge`). It stays out of the checkpoint; its hash goes in.
        backbone: the student's network, one of ours by name.
        width: channels of its first stage.
        learning_rate: Adam's.
        decay: how the rate changes over the run: `constant`, `one_cycle`, `cosine`, `step`.
        input_size: height and width of what is released; comes from the data.
        in_channels: channels of what is released; comes from the desensitizer.
        channels_last: keep images and weights in NHWC, which is faster on most devices.
        bit_planes: see the eight bits of every pixel as channels too: for what hides in the lowest ones.
        remember: keep the teacher's embeddings of clean images that were seen (256 MB of them at most), so that a slow
            teacher is asked once for each, and once for its mirror image, and not in every epoch.

    Raises:
        ValueError: the teacher or the data cannot be used; the message says why.

    Source: FaceLinkGen, 2026.
    """

    def __init__(
        self,
        teacher: Path | nn.Module | None = None,
        backbone: str = "resnet18",
        width: int = 64,
        learning_rate: float = 1e-3,
        decay: Schedule = "one_cycle",
        input_size: int = 112,
        in_channels: int = 3,
        channels_last: bool = True,
        bit_planes: bool = False,
        remember: bool = False,
    ) -> None:
        super().__init__()
        check_rates(learning_rate=learning_rate)
        # no path, and no weights of others, in a checkpoint
        self.save_hyperparameters(ignore=["teacher", "remember"])
        self._seen = ImageMemory(whole_batches=False) if remember else None
        self._given, self.decay = [teacher], decay  # in a list: a module there is neither trained nor saved
        self.network: LinkStudent | None = None
        self.batches, self.pixels, self.dim, self.taught = 0, 0, 0, ""
        self._teach: list[
            Callable[[Tensor], Tensor]
        ] = []  # in lists: neither in the checkpoint nor the optimiser
        self._modules_of_teacher: list[nn.Module] = []
        self._held_out = HeldOutMeans("similarity")
        self._tried: list[LinkStudent] = []  # a student that is timed before there is a teacher

    def check_fit(self, data: Any) -> None:
        """Check that a training on these data can begin, whoever the teacher is; `compare` asks before its first run.

        Args:
            data: a `FaceDataModule`.

        Raises:
            ValueError: it cannot; the message says why.
        """
        if not getattr(data, "keep_clean", False):
            raise ValueError("Linker learns from clean faces: set data.keep_clean to true")
        check_bit_planes(bool(self.hparams["bit_planes"]), data.desensitizer)

    def prepare_data(self) -> None:
        """Check the data and read the teacher, before a run is written.

        Raises:
            FileNotFoundError, ValueError: they cannot be used; the message says why.
        """
        if self._teach:
            return
        data: Any = getattr(self.trainer, "datamodule", None)
        self.check_fit(data)
        self._check_given()
        taught = self.taught
        self.pixels = int(data.size)
        teach = self._read_teacher(data)
        if taught and taught != self.taught:
            raise ValueError(
                f"model.teacher: its hash is {self.taught[:12]}, this run learnt from {taught[:12]}: give that one, or "
                "start anew with --overwrite"
            )
        with torch.no_grad():
            dim = int(teach(torch.zeros(1, 3, self.pixels, self.pixels)).shape[1])
        self._make(dim)
        self._teach = [teach]

    def teacher_hash(self, size: int) -> str:
        """Return what a checkpoint of it keeps of its teacher; `compare` asks before its first run.

        Args:
            size: side of the clean faces in pixels.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            ValueError: none is given, or it cannot be learnt from.
        """
        self._check_given()
        given = self._given[0]
        assert given is not None
        return _hash_of(given) if isinstance(given, nn.Module) else str(read_teacher(given, size)[1].sha256)

    def _check_given(self) -> None:
        if self._given[0] is None:
            raise ValueError(
                "model.teacher: None; give the recogniser of clean faces whose embeddings are learnt: a checkpoint, "
                "or a judge by class_path"
            )

    def setup(self, stage: str) -> None:
        """Do on every rank what `prepare_data`, which comes before the run's folder is written, did on one."""
        self.prepare_data()

    def _read_teacher(self, data: Any) -> Callable[[Tensor], Tensor]:
        teacher = self._given[0]
        if isinstance(teacher, nn.Module):
            self.taught = _hash_of(teacher)
            self._modules_of_teacher = [teacher.eval().requires_grad_(False)]
            return teacher
        assert teacher is not None
        model, facts = read_teacher(teacher, data.size)
        self.taught = str(facts.sha256)
        model.eval().requires_grad_(False)
        self._modules_of_teacher = [model]
        mean, std = (float(facts.data.get(name, 0.5)) for name in ("mean", "std"))

        def embed(clean: Tensor) -> Tensor:
            embedded: Tensor = model.embed(normalised(clean, mean, std))
            return embedded

        return embed

    def _make(self, dim: int) -> None:
        if self.network is None:
            self.dim, self.network = dim, self._student(dim, self.pixels)

    def _student(self, dim: int, pixels: int) -> LinkStudent:
        settings, bits = self.hparams, bool(self.hparams["bit_planes"])
        made = LinkStudent(
            settings["backbone"], settings["in_channels"], pixels, dim, settings["width"], bits
        )
        return made.to(memory_format=torch.channels_last) if settings["channels_last"] else made

    def rehearse(self, image: Tensor, mask: Tensor, mask_index: Tensor, pixels: int) -> Tensor:
        """Embed made-up images with a student of its kind: a step's pass, but for the teacher's.

        Args:
            image: `[B,C,h,w]`.
            mask: `[M,1,H,W]`; not used.
            mask_index: `[B]` int64 into the masks.
            pixels: the side of the raw faces.
        """
        if not self._tried:
            self._tried = [self._student(_DIM, pixels).to(image.device).train()]
        embedded: Tensor = self._tried[0](image)
        return embedded.square().mean()

    def on_fit_start(self) -> None:
        """Move the teacher to the device."""
        self._move_teacher()

    def on_validation_start(self) -> None:
        """Move the teacher to the device."""
        self._move_teacher()

    def _move_teacher(self) -> None:
        for part in self._modules_of_teacher:
            part.to(self.device).eval()

    def forward(self, image: Tensor) -> Tensor:
        """Embed what was released, `[B,C,h,w]`, not normalised, into `[B,D]`."""
        assert self.network is not None
        if self.hparams["channels_last"]:
            image = image.contiguous(memory_format=torch.channels_last)
        embedded: Tensor = self.network(image)
        return embedded

    def similarities(self, batch: Batch) -> Tensor:
        """Return the cosine `[B]` of the student's embeddings and the teacher's of the clean faces."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        released = denormalised(batch["image"], data.mean, data.std)
        with torch.no_grad():
            clean, teach = batch["clean"].float(), self._teach[0]
            target = teach(clean) if self._seen is None else self._seen.rows(clean, teach)
        return F.cosine_similarity(self(released).float(), target.float(), dim=1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return 1 − cosine, the batch's mean, and log it."""
        loss = 1 - self.similarities(batch).mean()
        self.batches += 1
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch["image"]))
        # a tensor of the host's: of a number Lightning makes one on the device, and waits for it at every step
        rate = learning_rate(self.trainer)
        self.log("train/lr", rate, batch_size=1)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the cosine of held-out images; the batch may be empty."""
        if len(batch["image"]):
            self._held_out.add({"similarity": self.similarities(batch).mean()}, len(batch["image"]))

    def on_validation_epoch_end(self) -> None:
        """Log it, over the images of all ranks; nothing where there are none."""
        self._held_out.log(self, "link")

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Refuse: what it embeds are an attacker's guesses.

        Raises:
            ValueError: always.
        """
        raise ValueError("predict writes a recogniser's embeddings; attack with LinkAttack instead")

    def configure_optimizers(self) -> Any:  # Lightning's own union is not expressible in strict mypy
        """Return Adam and the schedule over all steps of the run."""
        assert self.network is not None
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.hparams["learning_rate"])
        return scheduled(optimizer, total_steps(self.trainer, f"decay={self.decay}"), self.decay)

    @property
    def pictures_only(self) -> bool:
        """Whether it cannot be trained on what is no picture: one that sees bits takes the bits of pixels."""
        return bool(self.hparams["bit_planes"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what an attack needs to know, and the teacher's hash."""
        checkpoint[KEPT] = {
            "dim": self.dim, "pixels": self.pixels, "teacher": self.taught, "batches": self.batches,
        }  # fmt: skip

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another network's weights or another teacher in one line, and go on counting.

        Raises:
            ValueError: the checkpoint holds another network, or learnt from another teacher.
        """
        student_state(checkpoint, "this checkpoint")
        saved, description = checkpoint.get("hyper_parameters", {}), checkpoint[KEPT]
        check_attacker(saved, self.hparams, SHAPE)
        if self.taught and description["teacher"] != self.taught:
            raise ValueError(
                f"model.teacher: its hash is {self.taught[:12]}, this run learnt from {description['teacher'][:12]}: "
                "give that one, or start anew with --overwrite"
            )
        if self._trainer is not None and self.trainer.state.fn == "fit":
            warn_of_kept(("learning_rate", "decay"), saved, self.hparams)
            self.decay = self.hparams["decay"]
        self.taught, self.batches, self.pixels = (
            description["teacher"],
            int(description["batches"]),
            int(description["pixels"]),
        )
        self._make(int(description["dim"]))


def _hash_of(teacher: nn.Module) -> str:
    description = (
        getattr(teacher, "description", None) or f"{type(teacher).__module__}.{type(teacher).__qualname__}"
    )
    return hashlib.sha256(str(description).encode()).hexdigest()
