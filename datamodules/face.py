"""From a reader's uint8 pixels to batches a recogniser takes: split, order, veil, augment, normalise."""

from __future__ import annotations

import hashlib
import logging
import os
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.augment import Augment
from datamodules.drawn import DrawnFaces
from datamodules.loader import TimedLoader
from datamodules.reader import BadImages, CachedReader, FaceReader, Subset, whole
from datamodules.resumable import ignore_signals
from datamodules.sampler import EpochBatchSampler
from datamodules.split import NoImages, Share, digest, first_of, held_out
from datamodules.veils import brief, check_same, same_veil
from lightning_app.batch import Batch, Moment
from lightning_app.desensitize import Desensitizer, Identity
from lightning_app.ranks import agree, union

log = logging.getLogger("faceveil")


class FaceDataModule(L.LightningDataModule):
    """Faces for training and validation, desensitized on the fly, whole batches at a time.

    The reader yields uint8; everything after it happens on the device in `on_after_batch_transfer`: to float
    in [0,1] → desensitize, rounded to the uint8 grid → augment (training only) → normalise (design, 'Pixels').

    Args:
        reader: where pixels and identities come from; drawn faces by default.
        desensitizer: how the images are veiled; by default not at all. A released set brings its own, for the
            verification images: leave it out then.
        augment: what training images undergo after veiling; a flip by default.
        global_batch_size: images per step over all processes; each takes an equal share.
        num_workers: processes that read images.
        val_share: share of each identity's images held out for validation, 0 … 1; at least one stays.
        cache: keep the decoded images in memory.
        seed: of the order, the split, the masks and the augmentation; `seed_everything` by default.
        mean: subtracted from every channel, on [0,1] pixels.
        std: what every channel is divided by then.
        keep_clean: give batches the clean faces too, as `clean [B,3,H,W]` float in [0,1], moved as `image` is.
            For training attackers (`Inpainter`) on faces they may see, and for nothing else.
    """

    def __init__(
        self,
        reader: FaceReader | None = None,
        desensitizer: Desensitizer | None = None,
        augment: Augment | None = None,
        global_batch_size: int = 64,
        num_workers: int = 0,
        val_share: float = 0.0,
        cache: bool = False,
        seed: int | None = None,
        mean: float = 0.5,
        std: float = 0.5,
        keep_clean: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= val_share < 1:
            raise ValueError(f"data.val_share={val_share}: give a share from 0 up to, not including, 1")
        if global_batch_size < 1:
            raise ValueError(f"data.global_batch_size={global_batch_size}: give at least 1")
        if std <= 0:
            raise ValueError(f"data.std={std}: give a positive number")
        self.reader = reader if reader is not None else DrawnFaces()
        already = self.reader.desensitizer()
        self.released = already is not None
        if already is not None:
            check_same(already, desensitizer, self.size)
        made = already if already is not None else desensitizer
        self.desensitizer: Desensitizer = made if made is not None else Identity()
        self.augment = augment if augment is not None else Augment()
        self.global_batch_size, self.num_workers = global_batch_size, num_workers
        self.val_share, self.cache = val_share, cache
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.mean, self.std, self.keep_clean = mean, std, keep_clean
        if keep_clean and self.released:
            raise ValueError(
                "data.keep_clean: true, but a released set has no clean faces; give the raw images"
            )
        self.verification: list[FaceReader] = []  # sets that callbacks verify on; they enter here in setup
        self._train: FaceReader | None = None
        self._val: FaceReader | None = None
        self._sampler: EpochBatchSampler | None = None
        self._bad: BadImages | None = None
        self._split_facts: dict[str, int | str] | None = None
        self._warned = 0
        self._epoch = -1

    @property
    def size(self) -> int:
        """Height and width of the images, in pixels."""
        return self.reader.size

    @property
    def in_channels(self) -> int:
        """Channels of the images a model is given."""
        return self.desensitizer.out_channels

    @property
    def batch_size(self) -> int:
        """Images per step of this process: its share of the global batch.

        Raises:
            ValueError: the global batch cannot be dealt to the ranks in equal shares.
        """
        world = self.trainer.world_size if self.trainer else 1
        if self.global_batch_size % world:
            raise ValueError(
                f"data.global_batch_size={self.global_batch_size} on {world} ranks: every rank takes an equal share; "
                f"give a multiple of {world}"
            )
        return self.global_batch_size // world

    @property
    def num_classes(self) -> int:
        """Identities of the training set, which is looked through for it."""
        return len(self.reader.identities)

    @property
    def drawn(self) -> bool:
        """Whether all faces are drawn ones, which belong to nobody."""
        return all(isinstance(r, DrawnFaces) for r in [self.reader, *self.verification])

    def setup(self, stage: str) -> None:
        """Split the reader into training and validation images, disjoint.

        Raises:
            FileNotFoundError, ValueError: the training set cannot be used, or is not the same on every rank; the
                message says why.
        """
        self.desensitizer.prepare((self.size, self.size))
        _ = self.batch_size  # now, before anything is written
        if stage == "fit":
            if self.num_classes < 2:
                raise ValueError(
                    f"{self.num_classes} identity in the training set: a recogniser needs two or more"
                )
            if self._train is None:
                self._split(CachedReader(self.reader) if self.cache else self.reader)
        elif stage in ("validate", "test") and self.val_share > 0 and self._val is None:
            try:
                self._split(self.reader.open())
            except FileNotFoundError as error:
                log.warning("No held-out images to validate on: %s", error)
        agree("training set and desensitizer", self._facts)

    def _facts(self) -> dict[str, object]:
        """Name what has to be the same on every rank."""
        veil = self.desensitizer.describe()
        there = self._train is not None
        return {
            "images": len(self.reader) if there else 0,
            "identities": self.num_classes if there else 0,
            "order": digest(self.reader)[:12] if there else "",
            "held_out": 0 if self._val is None else len(self._val),
            "mask": str(veil.get("mask_hash"))[:12],
            "desensitizer": veil["method"] if "mask_hash" in veil else veil,
            "seed": self.seed,
            "global_batch_size": self.global_batch_size,
        }

    def _split(self, whole: FaceReader) -> None:
        self._bad = BadImages(len(whole))
        held = held_out(whole.labels, self.val_share, self.seed)
        digest = hashlib.sha256(whole.labels.numpy().tobytes() + held.numpy().tobytes()).hexdigest()
        self._split_facts = {"images": len(held), "held_out": int(held.sum()), "hash": digest}
        self._train = whole
        if held.any():
            self._val = Subset(whole, torch.nonzero(held).flatten())
            self._train = Subset(whole, torch.nonzero(~held).flatten())

    @property
    def training(self) -> FaceReader | None:
        """The training images, once set up for `fit`."""
        return self._train

    @property
    def held_out(self) -> FaceReader | None:
        """The held-out images of the training identities, once set up; None where there are none."""
        return self._val

    def train_dataloader(self) -> DataLoader[Batch]:
        """Serve training batches in the order of (seed, epoch), from where a resumed run left off."""
        assert self._train is not None
        trainer = self.trainer
        assert trainer is not None
        if self._sampler is None:
            self._sampler = EpochBatchSampler(
                len(self._train),
                self.batch_size,
                self.seed,
                rank=trainer.global_rank,
                world=trainer.world_size,
            )
        loader = self._loader(self._train, batch_sampler=self._sampler)
        loader.before_epoch = self._find_place
        return loader

    def _find_place(self) -> None:
        """Take epoch and batch from Lightning's counters: those of the checkpoint where a run goes on."""
        assert self._sampler is not None
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        progress: Any = loop.epoch_progress.current  # not current_epoch: with max_steps it may be one behind
        self._sampler.set_epoch(progress.processed)
        self._sampler.start = loop.epoch_loop.batch_progress.current.ready % len(self._sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Serve held-out images; without any an empty batch, since callbacks need a batch."""
        if self._val is None:
            return DataLoader(NoImages(self.size), batch_size=1, collate_fn=first_of)
        return self._evaluation_loader(self._val)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Serve what `val_dataloader` serves."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Serve every image of the reader in its order, veiled, not augmented."""
        return self._evaluation_loader(self.reader)

    def _evaluation_loader(self, reader: FaceReader) -> DataLoader[Batch]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return self._loader(Share(reader, rank, world), batch_size=self.batch_size)

    def _loader(self, reader: Dataset[Batch], **order: Any) -> TimedLoader:
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return TimedLoader(
            reader,
            **order,
            collate_fn=whole,
            num_workers=self.num_workers,
            worker_init_fn=ignore_signals,
            persistent_workers=self.num_workers > 0,
            pin_memory=on_cuda,
        )

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Count images that could not be decoded; more than 1 % of the set is an error.

        A rank counts its own; those of all ranks are counted together once an epoch and at the end.

        Raises:
            ValueError: the set has too many bad images; names the first few.
        """
        bad = batch.pop("bad", None)
        if bad is not None and len(bad) and self._bad is not None:
            self._bad.add(bad)
            self._bad.check(self.reader.name)
        return batch

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Veil, augment (in training) and normalise a batch on its device."""
        trainer = self.trainer
        if len(batch["image"]) == 0:
            return {**batch, "mask": None, "mask_index": batch["index"]}
        if trainer is None or not trainer.training:
            return self._normalised(self._veiled_once(batch))
        moment = Moment(self.seed, trainer.current_epoch, trainer.global_step)
        if moment.epoch != self._epoch:
            self._epoch = moment.epoch
            self._warn_of_bad_images()
        return self._normalised(self.augment(self._veiled_once(batch, moment), moment))

    def _veiled_once(self, batch: Batch, moment: Moment | None = None) -> Batch:
        """Veil a batch of the reader: released pixels stay as they are and only get their mask, if there is one."""
        masked = not self.released or "mask_hash" in self.desensitizer.describe()  # black again is black
        return self.veiled(batch, moment, desensitize=masked)

    @torch.no_grad()
    def veiled(self, batch: Batch, moment: Moment | None = None, desensitize: bool = True) -> Batch:
        """Bring a reader's batch to [0,1] and veil it, rounded to the uint8 grid.

        Args:
            batch: `image` uint8 `[B,3,H,W]` and `index [B]`.
            moment: what the masks' draws are a function of; None outside training.
            desensitize: False gives the clean images, with no mask.

        Returns:
            `image` float in [0,1], a multiple of 1/255 where it is a picture; `mask`, `mask_index`.
        """
        out = batch.copy()
        out["image"] = batch["image"].float() / 255
        if self.keep_clean:
            out["clean"] = out["image"]
        if not desensitize:
            out["mask"], out["mask_index"] = None, batch["index"].new_zeros(len(batch["index"]))
            return out
        self.desensitizer.to(out["image"].device)
        out = self.desensitizer.forward(out, moment)
        if self.desensitizer.is_image:
            out["image"] = (out["image"] * 255).round() / 255
        return out

    def desensitized(self, images: Tensor, index: Tensor | None = None) -> Batch:
        """Veil raw pixels as validation does; `image` stays in [0,1].

        Args:
            images: uint8 `[B,3,H,W]`.
            index: `[B]` int64 numbers that per-image masks are drawn by; 0 … B−1 by default.
        """
        index = torch.arange(len(images), device=images.device) if index is None else index
        return self.veiled({"image": images, "index": index})

    def prepare(
        self,
        images: Tensor,
        index: Tensor | None = None,
        *,
        desensitize: bool = True,
        moment: Moment | None = None,
    ) -> Batch:
        """Make of raw pixels what a model takes: veiled (or clean, with no mask) and normalised.

        Args:
            images: uint8 `[B,3,H,W]`.
            index: `[B]` int64 numbers that per-image masks are drawn by; 0 … B−1 by default.
            desensitize: False gives clean images.
            moment: what the masks' draws are a function of.
        """
        index = torch.arange(len(images), device=images.device) if index is None else index
        return self._normalised(self.veiled({"image": images, "index": index}, moment, desensitize))

    def raw_samples(self, count: int) -> Tensor:
        """Give the raw pixels of a few validation images, for figures of privacy and for nothing else.

        They come from the held-out images, else from the first verification set, else from the training set;
        the same every time, spread over the set. Of a released set nothing is raw but verification images.

        Returns:
            uint8 `[n,3,H,W]`, n ≤ `count`; n = 0 where there are none.
        """
        verified = next(iter(self.verification), None)
        source = verified if self.released else self._val or verified or self.reader
        if source is None:
            return torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)
        at = torch.linspace(0, len(source) - 1, min(count, len(source))).round().long()
        return source.__getitems__(at.tolist())["image"]

    def state_dict(self) -> dict[str, Any]:
        """Give what a checkpoint keeps: how faces were veiled and normalised, which were held out; no path, no name.

        `split` holds the number of images, how many of them were held out and a hash of labels and choice, so
        that a later search can tell whether its images were trained on.
        """
        return {
            "desensitizer": self.desensitizer.describe(),
            "num_classes": self.num_classes,
            "split": self._split_facts,
            "mean": self.mean,
            "std": self.std,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Say so where a checkpoint's faces were veiled in another way than these."""
        if self._val is not None and state_dict.get("num_classes") not in (None, self.num_classes):
            self._val = None
            log.warning(
                "The checkpoint knows %d identities, this set has %d: no loss and accuracy of held-out images.",
                state_dict["num_classes"], self.num_classes,
            )  # fmt: skip
        theirs, ours = state_dict.get("desensitizer"), self.desensitizer.describe()
        if theirs is not None and not same_veil(theirs, ours):
            log.warning("The checkpoint was trained on faces veiled by %s; these are veiled by %s.",
                        brief(theirs), brief(ours))  # fmt: skip

    def teardown(self, stage: str) -> None:
        """Count the bad images of all ranks and warn of those met since the last warning.

        Raises:
            ValueError: the set has too many of them.
        """
        self._warn_of_bad_images()

    def _normalised(self, batch: Batch) -> Batch:
        batch["image"] = (batch["image"] - self.mean) / self.std
        if self.trainer is None:
            return batch
        ready: Batch = self.trainer.precision_plugin.convert_input(batch)  # for bf16-true and 16-true
        return ready

    def _warn_of_bad_images(self) -> None:
        if self._bad is not None:
            self._bad.add(union(self._bad.numbers))  # every rank comes here at the same step
            self._bad.check(self.reader.name)
        if self._bad is not None and len(self._bad.numbers) > self._warned:
            self._warned = len(self._bad.numbers)
            log.warning(self._bad.warning(self.reader.name))
