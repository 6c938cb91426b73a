"""LFW verification: are two images of the same person, by the protocol of `pairs.txt`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from datamodules.face import FaceDataModule
from datamodules.pairs import BinFaces, PairFaces, PairList
from datamodules.reader import FaceReader, whole
from lightning_app.batch import Batch
from lightning_app.metrics import VerificationResult, verification

log = logging.getLogger("faceveil")
Situation = Literal[1, 2, 3]


class LFWVerification(L.Callback):
    """Verify on a list of pairs after validation and log accuracy, AUC, EER and TAR@FAR with intervals.

    Every unique image is read once and embedded once per state (clean, desensitized); cosine similarity
    decides. Situation 1: both desensitized; 2: the first clean, the second desensitized; 3: both clean
    (paper, 4.3). Keys: `lfw/accuracy` (situation 1), `lfw/accuracy_s1` … `_s3`, and the like.

    Args:
        root: folder of images, one folder per identity, as LFW has it.
        pairs: list of pairs, in LFW's form or as `path path same` lines; `pairs.txt` in or beside the root by default.
        bin: an InsightFace `.bin` set instead of a folder.
        reader: any other verification set, by `class_path`: a reader with an attribute `pairs`.
        situations: which of the three to measure; only the first where nothing is desensitized.
        flip: add the embedding of the mirrored image (InsightFace's habit).
        missing: `skip` drops pairs whose images are missing, `error` refuses the list.
        crop: crop box, or side of the central square, in source pixels; the training reader's by default.
        every_n_epochs: how often within `fit`; the last epoch is always verified.
        batch_size: images per step; the DataModule's by default.
        bootstrap: resamples behind the 95 % intervals.
        name: first part of the log keys.

    Raises:
        ValueError: not exactly one of root, bin and reader is given.
    """

    def __init__(
        self,
        root: Path | None = None,
        pairs: Path | None = None,
        bin: Path | None = None,  # the suffix users know
        reader: FaceReader | None = None,
        situations: list[Situation] | None = None,
        flip: bool = False,
        missing: Literal["error", "skip"] = "error",
        crop: int | tuple[int, int, int, int] | None = None,
        every_n_epochs: int = 1,
        batch_size: int | None = None,
        bootstrap: int = 1000,
        name: str = "lfw",
    ) -> None:
        if sum(x is not None for x in (root, bin, reader)) != 1:
            raise ValueError(
                f"root={root}, bin={bin}, reader={reader}: LFWVerification needs exactly one of them to know "
                "which images to verify on"
            )
        if reader is not None and not isinstance(getattr(reader, "pairs", None), PairList):
            raise ValueError(
                f"reader={type(reader).__name__}: it has no list of pairs; use PairFaces or DrawnPairs"
            )
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs={every_n_epochs}: give at least 1")
        self.root, self.pairs, self.bin, self.reader = root, pairs, bin, reader
        self.situations: list[Situation] = situations or [1, 2, 3]
        self.flip, self.missing, self.crop = flip, missing, crop
        self.every_n_epochs, self.batch_size = every_n_epochs, batch_size
        self.bootstrap, self.name = bootstrap, name
        self.results: dict[int, VerificationResult] = {}
        self._told = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Read the list, check that its images are there, report identities shared with the training set.

        Raises:
            FileNotFoundError, ValueError: the list or its images cannot be used; the message says why.
        """
        data = _datamodule(trainer)
        self.reader = self.open(data)
        if self.reader not in data.verification:
            data.verification.append(self.reader)
        if stage == "fit" and not self._told and self.reader.identities:
            self._told = True
            if data.released:
                log.info(
                    "%s: a released set has pseudonyms: identities that both have are not found.", self.name
                )
            shared = sorted(set(data.reader.identities) & set(self.reader.identities))
            if shared:
                log.warning(
                    "%s: %d of %d identities are in the training set too (%s, …): its figures are contaminated.",
                    self.name, len(shared), len(self.reader.identities), ", ".join(shared[:3]),
                )  # fmt: skip

    def open(self, data: FaceDataModule) -> FaceReader:
        """Give the reader of the verification images, made when first asked for.

        Args:
            data: whose size, and whose crop where none was given, the images take.

        Raises:
            FileNotFoundError, ValueError: the list or its images cannot be used; the message says why.
        """
        if self.reader is None:
            crop = self.crop if self.crop is not None else getattr(data.reader, "crop", None)
            if self.bin is not None:
                self.reader = BinFaces(self.bin, size=data.size, crop=self.crop)
            else:
                assert self.root is not None
                self.reader = PairFaces(
                    self.root, self.pairs, size=data.size, crop=crop, missing=self.missing
                )
        if self.reader.size != data.size:
            raise ValueError(
                f"{self.name}: its images are {self.reader.size} px, the training images {data.size} px: give both "
                "the same size"
            )
        return self.reader

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Verify, when it is due."""
        if trainer.sanity_checking:
            return
        epochs = trainer.max_epochs
        last = epochs is not None and epochs > 0 and trainer.current_epoch + 1 >= epochs
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0 or last
        if trainer.state.fn != "fit" or due:
            self.verify(trainer, pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Verify."""
        self.verify(trainer, pl_module)

    def verify(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Embed, score and log all situations."""
        assert self.reader is not None
        data = _datamodule(trainer)
        hides = data.desensitizer.hides
        states = {
            "veiled": hides and set(self.situations) != {3},
            "clean": not hides or bool({2, 3} & {*self.situations}),
        }
        embeddings = self._embed(trainer, pl_module, data, [s for s, wanted in states.items() if wanted])
        if not hides:
            embeddings["veiled"] = embeddings["clean"]
        pairs: PairList = self.reader.pairs  # checked in __init__
        figures: dict[str, float] = {}
        for situation in self.situations if hides else self.situations[:1]:
            first = embeddings["veiled" if situation == 1 else "clean"][pairs.a]
            second = embeddings["clean" if situation == 3 else "veiled"][pairs.b]
            scores = (first * second).sum(1).double().cpu().numpy()
            result = verification(scores, pairs.same.numpy(), pairs.folds.numpy(), bootstrap=self.bootstrap)
            self.results[situation] = result
            if situation == 1 or not hides:
                figures |= result.as_dict(self.name)
            figures |= result.as_dict(self.name, f"_s{situation}")
        pl_module.log_dict(figures, batch_size=1)

    @torch.no_grad()
    def _embed(
        self, trainer: L.Trainer, pl_module: L.LightningModule, data: FaceDataModule, states: list[str]
    ) -> dict[str, Tensor]:
        """Embed every unique image once per state: state → `[N,D]`, normalised, on the CPU."""
        assert self.reader is not None
        count, rank, world = len(self.reader), trainer.global_rank, trainer.world_size
        mine = torch.arange(rank, count, world)
        size = self.batch_size or data.batch_size
        loader: DataLoader[Batch] = DataLoader(
            self.reader, batch_sampler=[ids.tolist() for ids in mine.split(size)], collate_fn=whole,
            num_workers=data.num_workers,
        )  # fmt: skip
        device = trainer.strategy.root_device
        found: dict[str, list[Tensor]] = {state: [] for state in states}
        was_training = pl_module.training
        pl_module.eval()
        with _ticking(trainer, f"Verifying on {self.name}", len(mine)) as advance:
            for batch in loader:
                images, index = batch["image"].to(device), batch["index"].to(device)
                for state in states:
                    ready = data.prepare(images, index, desensitize=state == "veiled")
                    with trainer.precision_plugin.val_step_context():
                        embedding = _embedded(pl_module, ready)
                        if self.flip:
                            embedding = embedding + _embedded(pl_module, _mirrored(ready))
                    found[state].append(embedding.float())
                advance(len(images))
        pl_module.train(was_training)
        dim = getattr(getattr(pl_module, "backbone", None), "dim", 0)
        gathered = {}
        for state, parts in found.items():
            own = torch.cat(parts) if parts else torch.empty(0, dim, device=device)
            gathered[state] = F.normalize(_gathered(trainer, own, mine.to(device), count)).cpu()
        return gathered


def _embedded(pl_module: L.LightningModule, batch: Batch) -> Tensor:
    embed: Any = pl_module.embed  # what recognisers offer beside forward
    embedding: Tensor = embed(batch["image"], batch["mask"], batch["mask_index"])
    return embedding


def _mirrored(batch: Batch) -> Batch:
    mirrored = batch.copy()
    mirrored["image"] = batch["image"].flip(-1)
    mirrored["mask"] = None if batch["mask"] is None else batch["mask"].flip(-1)
    return mirrored


def _gathered(trainer: L.Trainer, own: Tensor, ids: Tensor, count: int) -> Tensor:
    """Bring the ranks' embeddings into the images' order: `[n,D]` with ids `[n]` → `[count,D]`."""
    if trainer.world_size == 1:
        return own
    longest = -(-count // trainer.world_size)
    padded = F.pad(own, (0, 0, 0, longest - len(own)))
    numbers = F.pad(ids, (0, longest - len(ids)), value=-1)
    all_ids = trainer.strategy.all_gather(numbers).flatten()
    every = trainer.strategy.all_gather(padded).flatten(0, 1)
    real = all_ids >= 0
    order = torch.argsort(all_ids[real])
    assert torch.equal(all_ids[real][order], torch.arange(count, device=ids.device))
    return every[real][order]


@contextmanager
def _ticking(trainer: L.Trainer, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a task in the trainer's own rich progress bar while it lasts; nothing where there is none."""
    progress: Any = getattr(trainer.progress_bar_callback, "progress", None)
    if progress is None or not hasattr(progress, "add_task"):
        yield lambda n: None
        return
    task = progress.add_task(f"[white]{title}", total=total)

    def advance(n: int) -> None:
        progress.update(task, advance=n, refresh=True)

    yield advance
    progress.update(task, visible=False)


def _datamodule(trainer: L.Trainer) -> FaceDataModule:
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, FaceDataModule):
        raise TypeError(
            "LFWVerification needs a FaceDataModule: it owns the desensitizer and the images' size"
        )
    return data
