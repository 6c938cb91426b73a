"""From a reader's uint8 pixels to batches a recogniser takes: split, order, desensitize, augment, normalise."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.augment import Augment
from datamodules.drawing.reader import DrawnFaces
from datamodules.loader import TimedLoader
from datamodules.on_device import Places, gathered
from datamodules.pixels import PixelDataModule
from datamodules.readers.bad_images import BadImages
from datamodules.readers.base import FaceReader, whole
from datamodules.readers.cached import CachedReader
from datamodules.resumable import ignore_signals
from datamodules.same_data import (
    BY_NUMBER,
    Split,
    check_normalised,
    check_pixels,
    check_place,
    knows_held_out,
    refuse_data,
)
from datamodules.same_description import alone, brief, check_key, check_same, key_hashes, same_desensitizer
from datamodules.sampler import EpochBatchSampler
from datamodules.split import NoImages, Share, digest, first_of
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import Desensitizer, Identity
from lightning_app.distributed.ranks import agree, union

log = logging.getLogger("faceveil")


class FaceDataModule(PixelDataModule):
    """Faces for training and validation, desensitized on the fly, whole batches at a time.

    The reader yields uint8; everything after it happens on the device in `on_after_batch_transfer`: to float
    in [0,1] → desensitize, rounded to the uint8 grid → augment (training only) → normalise (design, 'Pixels').

    Args:
        reader: where pixels and identities come from; drawn faces by default.
        desensitizer: how the images are desensitized; by default not at all. A released set brings its own, for the
            verification images: leave it out then.
        augment: what training images undergo after that; a flip by default. Where what the desensitizer returns cannot
            be mirrored (`flips` is False), raw images undergo it before, and those of a released set do not.
        global_batch_size: images per step over all processes; each takes an equal share.
        num_workers: processes that read images.
        val_share: share of each identity's images held out for validation, 0 … 1: floor(n · share) of n images, so
            that at least one stays. Seed and stable names choose them (`FaceReader.stable_name`): new people change
            nothing for others, a new image at most who of its own identity stands at the edge of the share.
        cache: keep the decoded images in memory; `device` keeps those of training and held-out images on the GPU itself
            (on the CPU where the run is), so that no pixel is copied in a step. Batches are the same.
        seed: of the order, the split, the masks and the augmentation; `seed_everything` by default.
        mean: subtracted from every channel, on [0,1] pixels; by default 0.5 of pictures, 0 of representations (the
            desensitizer's `scale`).
        std: what every channel is divided by then; by default 0.5 of pictures, 1 of representations.
        keep_clean: give batches the clean faces too, as `clean [B,3,H,W]` float in [0,1], moved as `image` is.
            For training attackers (`Inpainter`) on faces they may see, and for nothing else. Where the desensitizer
            mixes images, held-out ones are then mixed as those in training are; `clean` is a mix's first image.
        other_data: what to do where a checkpoint that training or validation goes on with was made with other images,
            or held out others: 'refuse', or 'accept' and say so. Held-out figures may then be of training images.
    """

    def __init__(
        self,
        reader: FaceReader | None = None,
        desensitizer: Desensitizer | None = None,
        augment: Augment | None = None,
        global_batch_size: int = 64,
        num_workers: int = 0,
        val_share: float = 0.0,
        cache: bool | Literal["device"] = False,
        seed: int | None = None,
        mean: float | None = None,
        std: float | None = None,
        keep_clean: bool = False,
        other_data: Literal["refuse", "accept"] = "refuse",
    ) -> None:
        super().__init__()
        if not 0 <= val_share < 1:
            raise ValueError(f"data.val_share={val_share}: give a share from 0 up to, not including, 1")
        if global_batch_size < 1:
            raise ValueError(f"data.global_batch_size={global_batch_size}: give at least 1")
        if cache not in (True, False, "device"):
            raise ValueError(f"data.cache={cache!r}: give true, false or device")
        if std is not None and std <= 0:
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
        shift, scale = self.desensitizer.scale
        self.mean, self.std = shift if mean is None else mean, scale if std is None else std
        self.keep_clean = keep_clean
        if keep_clean and self.released:
            raise ValueError(
                "data.keep_clean: true, but a released set has no clean faces; give the raw images"
            )
        self.verification: list[FaceReader] = []  # sets that callbacks verify on; they enter here in setup
        self._split: Split | None = None
        self._met: dict[str, Any] | None = None  # what a checkpoint said that was not compared yet
        self._no_figures = False  # of held-out images: a checkpoint does not know them
        self._sampler: EpochBatchSampler | None = None
        self._on_device: CachedReader | None = None
        self._bad: BadImages | None = None
        self.other_data = other_data
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
    def input_size(self) -> int:
        """Height and width of what a model is given, in pixels."""
        return self.desensitizer.out_size(self.size)

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
        self._check_mix(stage)
        if stage == "fit":
            if self.num_classes < 2:
                raise ValueError(
                    f"{self.num_classes} identity in the training set: a recogniser needs two or more"
                )
            if self._split is None:
                self._deal(CachedReader(self.reader) if self.cache else self.reader)
            if self._on_device is not None and self.trainer is not None:
                self._on_device.to(
                    self.trainer.strategy.root_device
                )  # now, so that too little memory is told early
        elif stage in ("validate", "test") and self.val_share > 0 and self._split is None:
            try:
                self._deal(self.reader.open())
            except FileNotFoundError as error:
                log.warning("No held-out images to validate on: %s", error)
        agree("training set and desensitizer", self._facts)

    def _check_mix(self, stage: str) -> None:
        """Refuse batches with fewer images than the desensitizer mixes."""
        most, world = self.desensitizer.mixes, self.global_batch_size // self.batch_size
        if stage == "fit" and self.batch_size < most:
            raise ValueError(
                f"data.global_batch_size={self.global_batch_size}: {type(self.desensitizer).__name__} mixes k={most} "
                f"images of a batch, and each of {world} processes has {self.batch_size}; give {most * world} or more"
            )

    def _facts(self) -> dict[str, object]:
        """Name what has to be the same on every rank."""
        description = self.desensitizer.describe()
        there = self._split is not None
        return {
            "images": len(self.reader) if there else 0,
            "identities": self.num_classes if there else 0,
            "order": digest(self.reader)[:12] if there else "",
            "held_out": 0 if self.held_out is None else len(self.held_out),
            "mask": str(description.get("mask_hash"))[:12],
            "desensitizer": description["method"] if "mask_hash" in description else description,
            "seed": self.seed,
            "global_batch_size": self.global_batch_size,
            "owner's key (without `key: FILE` each process draws its own)": [
                k[:12] for k in key_hashes(description)
            ],
        }

    def _deal(self, whole: FaceReader) -> None:
        self._bad = BadImages(len(whole))
        self._split = Split(whole, self.val_share, self.seed)
        self._on_device = whole if self.cache == "device" and isinstance(whole, CachedReader) else None

    def check_split(self, theirs: Mapping[str, Any], who: str) -> None:
        """Refuse data other than those a checkpoint was trained on, or other held-out images than its.

        Held-out images of a checkpoint that drew them by number, as FaceVeil did before, are then drawn so here too.
        Where these data hold none out it does not matter which a checkpoint held out, but in `fit`.

        Args:
            theirs: `split` of a checkpoint, see `state_dict`.
            who: the checkpoint, for messages.

        Raises:
            ValueError: images, identities, their names or order, or the choice of held-out images are others, and
                `other_data` is 'refuse'.
        """
        if self._split is None:
            return
        fitting = self._stage == "fit"
        self._split, found = self._split.meeting(theirs, fitting or self.held_out is not None)
        if not found:
            if self._split.version == BY_NUMBER and self.held_out is not None:
                log.info(
                    "%s drew its held-out images by number, as FaceVeil did before: so they are here.",
                    who,
                )
            return
        refuse_data(found, who, fitting, self.other_data == "accept")

    @property
    def _stage(self) -> str:
        return str(self.trainer.state.fn.value) if self.trainer and self.trainer.state.fn else ""

    @property
    def training(self) -> FaceReader | None:
        """The training images, once set up for `fit`."""
        return None if self._split is None else self._split.training

    @property
    def held_out(self) -> FaceReader | None:
        """The held-out images of the training identities, once set up; None where there are none."""
        return None if self._split is None or self._no_figures else self._split.held_out

    def train_dataloader(self) -> DataLoader[Batch]:
        """Serve training batches in the order of (seed, epoch), from where a resumed run left off."""
        self._meet()
        assert self._split is not None
        trainer = self.trainer
        assert trainer is not None
        if self._sampler is None:
            self._sampler = EpochBatchSampler(
                len(self._split.training),
                self.batch_size,
                self.seed,
                rank=trainer.global_rank,
                world=trainer.world_size,
            )
        loader = self._loader(self._served(self._split.training), batch_sampler=self._sampler)
        loader.before_epoch = self._find_place
        return loader

    def _find_place(self) -> None:
        """Take epoch and batch from Lightning's counters: those of the checkpoint where a run goes on."""
        assert self._sampler is not None
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        progress: Any = loop.epoch_progress.current  # not current_epoch: with max_steps it may be one behind
        # to overfit is to see the same batches again
        again = bool(self.trainer.overfit_batches)  # type: ignore[attr-defined]
        self._sampler.set_epoch(0 if again else progress.processed)
        self._sampler.start = loop.epoch_loop.batch_progress.current.ready % len(self._sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Serve held-out images; without any an empty batch, since callbacks need a batch."""
        self._meet()
        if self.held_out is None:
            return DataLoader(NoImages(self.size, self._fewest_batches()), batch_size=1, collate_fn=first_of)
        return self._evaluation_loader(self._served(self.held_out))

    def test_dataloader(self) -> DataLoader[Batch]:
        """Serve what `val_dataloader` serves."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Serve every image of the reader in its order, desensitized, not augmented."""
        return self._evaluation_loader(self.reader)

    def _served(self, part: FaceReader) -> FaceReader | Places:
        """Give what the loader reads: the images, or their places where they lie on the device."""
        return part if self._on_device is None else Places(part)

    def _evaluation_loader(self, reader: FaceReader | Places) -> DataLoader[Batch]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        share = Share(reader, rank, world)
        most = max(1, len(share) // self._fewest_batches())
        return self._loader(share, batch_size=min(self.batch_size, most))

    def _fewest_batches(self) -> int:
        """Count the batches that a share of them (`limit_val_batches: 0.1` and its like) needs to be at least one."""
        trainer: Any = self.trainer
        if trainer is None or trainer.state.fn is None:
            return 1
        name = {"fit": "val", "validate": "val", "test": "test", "predict": "predict"}[
            str(trainer.state.fn.value)
        ]
        limit = getattr(trainer, f"limit_{name}_batches")
        return math.ceil(1 / limit) if isinstance(limit, float) and 0 < limit < 1 else 1

    def _loader(self, reader: Dataset[Batch], **order: Any) -> TimedLoader:
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        places = isinstance(
            getattr(reader, "reader", reader), Places
        )  # nothing to read, nothing worth pinning
        # pixels on the device are not for other processes
        workers = 0 if places or self._on_device is not None else self.num_workers
        return TimedLoader(
            reader,
            **order,
            collate_fn=whole,
            num_workers=workers,
            worker_init_fn=ignore_signals,
            persistent_workers=workers > 0,
            pin_memory=on_cuda and not places,
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
        """Desensitize, augment (in training) and normalise a batch on its device."""
        trainer = self.trainer
        if "places" in batch:
            assert self._on_device is not None
            batch = gathered(batch, self._on_device)
        if len(batch["image"]) == 0:
            return {**batch, "mask": None, "mask_index": batch["index"]}
        if trainer is None or not trainer.training:
            return self._normalised(self._evaluated(batch))
        mix = not getattr(getattr(trainer, "lightning_module", None), "mixes_itself", False)
        draw_key = DrawKey(self.seed, trainer.current_epoch, trainer.global_step, mix)
        if draw_key.epoch != self._epoch:
            self._epoch = draw_key.epoch
            self._warn_of_bad_images()
        if not self.desensitizer.flips:
            return self._normalised(self._desensitized_once(self._moved(batch, draw_key), draw_key))
        return self._normalised(self.augment(self._desensitized_once(batch, draw_key), draw_key))

    def _evaluated(self, batch: Batch) -> Batch:
        """Desensitize a batch that nobody learns from; an attacker's (`keep_clean`) is mixed as in training."""
        attacked = self.keep_clean and self.desensitizer.mixes > 1 and self._stage != "predict"
        draw_key = self.as_trained(len(batch["image"])) if attacked else None
        out = self._desensitized_once(batch, draw_key)
        if attacked and draw_key is None:  # fewer images than a mix has are left over: nobody can attack that
            return {key: one[:0] if isinstance(one, Tensor) else one for key, one in out.items()}  # type: ignore[return-value]
        return out

    def _moved(self, batch: Batch, draw_key: DrawKey) -> Batch:
        """Augment raw images before they are desensitized, on the uint8 grid; released ones stay as they are."""
        if self.released:
            return batch
        raw: Batch = {
            **batch,
            "image": batch["image"].float() / 255,
            "mask": None,
            "mask_index": batch["index"],
        }
        moved = self.augment(raw, draw_key)["image"]
        return {**batch, "image": (moved * 255).round().to(torch.uint8)}

    def _desensitized_once(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        """Desensitize a batch of the reader: released pixels only get their mask, if there is one."""
        masked = not self.released or "mask_hash" in self.desensitizer.describe()  # black again is black
        return self.desensitize_batch(batch, draw_key, desensitize=masked)

    def raw_samples(self, count: int) -> Tensor:
        """Give the raw pixels of a few validation images, for figures of privacy and for nothing else.

        They come from the held-out images, else from the first verification set, else from the training set;
        the same every time, spread over the set. Of a released set nothing is raw but verification images.

        Returns:
            uint8 `[n,3,H,W]`, n ≤ `count`; n = 0 where there are none.
        """
        verified = next(iter(self.verification), None)
        source = verified if self.released else self.held_out or verified or self.reader
        if source is None:
            return torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)
        at = torch.linspace(0, len(source) - 1, min(count, len(source))).round().long()
        return source.__getitems__(at.tolist())["image"]

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: how faces were desensitized, normalised and held out; no path, no name.

        `split` tells of images and choice what another run needs to know that its own are the same, see `split_facts`;
        None before they were looked through.
        """
        return {
            "desensitizer": self.desensitizer.describe(),
            "num_classes": self.num_classes,
            "split": None if self._split is None else self._split.facts,
            "mean": self.mean,
            "std": self.std,
            "pixels": self.reader.pixel_facts(),
            "seed": self.seed,
            "global_batch_size": self.global_batch_size,
            "batches_done": self._batches_done(),
        }

    def _batches_done(self) -> int:
        """Tell how many batches of the epoch under way are done; 0 between two epochs, and outside `fit`."""
        if self.trainer is None or self._stage != "fit":
            return 0
        done = int(self.trainer.fit_loop.epoch_loop.batch_progress.current.ready)
        return done if done < self.trainer.num_training_batches else 0

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare these data with a checkpoint's: refuse what would make its figures wrong, say what may.

        Raises:
            ValueError: it was trained on pixels normalised otherwise, or with another owner's key; in `fit`, or where
                images are held out, its data were others (see `check_split`), which is found out after the model has
                looked at its weights.
        """
        check_normalised(state_dict, self.mean, self.std)
        theirs, ours = state_dict.get("desensitizer"), self.desensitizer.describe()
        if (
            theirs is not None and self._stage != "fit"
        ):  # of a single image nothing is mixed, whatever the key
            theirs, ours = alone(theirs), alone(ours)
        if theirs is not None:
            check_key(theirs, ours)
        if theirs is not None and not same_desensitizer(theirs, ours):
            log.warning("The checkpoint was trained on faces desensitized by %s; these are desensitized by %s.",
                        brief(theirs), brief(ours))  # fmt: skip
        self._met = state_dict
        if self.trainer is None:
            self._meet()

    def _meet(self) -> None:
        """Compare these data with those of the checkpoint that was loaded, if one was; once."""
        state, self._met = self._met, None
        if state is None:
            return
        fitting = self._stage == "fit"
        pixels = state.get("pixels") or {}
        check_pixels(pixels, self.reader.pixel_facts(), fitting, self.other_data == "accept")
        if fitting or self.held_out is None or knows_held_out(state, self.num_classes):
            if state.get("split") is not None:
                self.check_split(state["split"], "the checkpoint")
        else:
            self._no_figures = True
        if fitting:
            check_place(state, self.state_dict())

    def teardown(self, stage: str) -> None:
        """Count the bad images of all ranks and warn of those met since the last warning.

        Raises:
            ValueError: the set has too many of them.
        """
        self._warn_of_bad_images()

    def _warn_of_bad_images(self) -> None:
        if self._bad is not None:
            self._bad.add(union(self._bad.numbers))  # every rank comes here at the same step
            self._bad.check(self.reader.name)
        if self._bad is not None and len(self._bad.numbers) > self._warned:
            self._warned = len(self._bad.numbers)
            log.warning(self._bad.warning(self.reader.name))
