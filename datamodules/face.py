"""From a reader's uint8 pixels to batches a recogniser takes: split, order, desensitize, augment, normalise."""

from __future__ import annotations

import logging
import os
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.augment import Augment
from datamodules.checkpointed import CheckpointedDataModule
from datamodules.drawing.reader import DrawnFaces
from datamodules.evaluation_sets import EvaluationSets
from datamodules.on_device import Places, gathered
from datamodules.precomputed import check_pictures
from datamodules.readers.base import FaceReader
from datamodules.readers.stored import tell_of_stored
from datamodules.readers.subset import Subset
from datamodules.same_data import Split
from datamodules.same_description import check_same, key_hashes
from datamodules.sampler import EpochBatchSampler
from datamodules.serving import Served
from datamodules.split import NoImages, digest, first_of
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import Desensitizer, Identity
from lightning_app.desensitize.noise import warn_of_moved
from lightning_app.distributed.ranks import agree

log = logging.getLogger("faceveil")


class FaceDataModule(CheckpointedDataModule):
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
        seed: seed of the order, the split, the masks and the augmentation; `seed_everything` by default.
        mean: subtracted from every channel, on [0,1] pixels; by default 0.5 of pictures, 0 of representations (the
            desensitizer's `scale`).
        std: what every channel is divided by then; by default 0.5 of pictures, 1 of representations.
        keep_clean: give batches the clean faces too, as `clean [B,3,H,W]` float in [0,1], moved as `image` is.
            For training attackers (`Inpainter`) on faces they may see, and for nothing else. Where the desensitizer
            mixes images, held-out ones are then mixed as those in training are; `clean` is a mix's first image.
        validation: images to validate on, instead of a share of the training set: another split of a task, say. Its
            classes are found by their names, whatever their order.
        test: images for `test`; by default those of validation.
        other_data: what to do where a checkpoint that training or validation goes on with was made with other images,
            or held out others, or where training goes on under another desensitizer: 'refuse', or 'accept' and say so.
            Held-out metrics may then be of training images.
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
        validation: FaceReader | None = None,
        test: FaceReader | None = None,
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
        if val_share > 0 and self.reader.mixes:
            raise ValueError(
                f"data.val_share={val_share}, but the images of this release are mixes: held-out faces would be "
                "in those trained on; give 0, and verify on others"
            )
        if keep_clean and self.released:
            raise ValueError(
                "data.keep_clean: true, but a released set has no clean faces; give the raw images"
            )
        if validation is not None and val_share > 0:
            raise ValueError(f"data.validation and data.val_share={val_share}: give one of them")
        self._evaluation = EvaluationSets(
            self.reader, self.desensitizer, {"validation": validation, "test": test}
        )
        self.verification: list[FaceReader] = []  # sets that callbacks verify on; they enter here in setup
        self._sampler: EpochBatchSampler | None = None
        self._own: Served | None = None  # the training set, whole
        self.other_data = other_data
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
    def drawn(self) -> bool:
        """Whether all faces are drawn ones, which belong to nobody."""
        everything = [self.reader, *self._evaluation.readers.values(), *self.verification]
        return all(reader.of_nobody for reader in everything)

    def setup(self, stage: str) -> None:
        """Split the reader into training and validation images, disjoint.

        Raises:
            FileNotFoundError, ValueError: a set cannot be used, or is not the same on every rank; the message says why.
        """
        self.desensitizer.prepare((self.size, self.size))
        _ = self.batch_size  # now, before anything is written
        self._check_mix(stage)
        if stage == "fit":
            if not self.released and not self.desensitizer.flips:
                flips = bool(getattr(self.augment, "flip", 0))
                warn_of_moved(self.desensitizer, bool(getattr(self.augment, "only_flips", False)), flips)
            if self.num_classes < 2:
                what = "identity" if self.reader.classes_are_people else "class"
                raise ValueError(
                    f"{self.num_classes} {what} in the training set: a recogniser needs two or more"
                )
            check_pictures(self.desensitizer, self.reader)
            if self._split is None:
                self._deal(Served.of(self.reader, self.cache, self.released))
            for served in (self._own, self._open("validation")):
                if served is not None and served.on_device is not None and self.trainer is not None:
                    # now, so that too little memory is told early
                    served.on_device.to(self.trainer.strategy.root_device)
        elif stage in ("validate", "test") and self.val_share > 0 and self._split is None:
            try:
                self._deal(Served.of(self.reader.open(), False, self.released))
            except FileNotFoundError as error:
                log.warning("No held-out images to validate on: %s", error)
        agree("training set and desensitizer", self._facts)

    def _check_mix(self, stage: str) -> None:
        """Refuse batches with fewer images than the desensitizer mixes."""
        if self.released:  # mixed once for all, or not
            return
        most, world = self.desensitizer.mixes, self.global_batch_size // self.batch_size
        if stage == "fit" and self.batch_size < most:
            raise ValueError(
                f"data.global_batch_size={self.global_batch_size}: {self.desensitizer.called} mixes k={most} "
                f"images of a batch, and each of {world} processes has {self.batch_size}; give {most * world} or more"
            )

    def _facts(self) -> dict[str, object]:
        """Return what has to be the same on every rank."""
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

    def _deal(self, served: Served) -> None:
        self._own = served
        tell_of_stored(self.reader, "data.reader")
        self._split = Split(served.reader, self.val_share, self.seed)

    def _open(self, name: str) -> Served | None:
        """Scan `validation` or `test`; None where there is none, or where its classes are not known."""
        if name not in self._evaluation.readers or self._no_figures:
            return None
        try:
            classes = self.class_names or self.reader.identities
        except FileNotFoundError as error:
            log.warning(
                "No loss and accuracy of data.%s: the numbers of its classes are unknown: %s", name, error
            )
            self._no_figures = True
            return None
        training = None if self._split is None else self.reader
        return self._evaluation.open(name, classes, training, self.cache)

    @property
    def training(self) -> FaceReader | None:
        """The training images, once set up for `fit`."""
        return None if self._split is None else self._split.training

    @property
    def held_out(self) -> FaceReader | None:
        """The images to validate on, held out or given, once set up; None where there are none."""
        if self._no_figures:
            return None
        if (given := self._evaluation.opened.get("validation")) is not None:
            return given.reader
        return None if self._split is None else self._split.held_out

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
        assert self._own is not None
        on_device = self._own.on_device is not None
        reader = Places(self._split.training) if on_device else self._split.training
        loader = self._loader(reader, on_device, batch_sampler=self._sampler)
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
        given = self._open("validation")
        return self._measured_on(given or self._own, self.held_out)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Serve the images given for it; else what `val_dataloader` serves."""
        if "test" not in self._evaluation.readers:
            return self.val_dataloader()
        self._meet()
        given = self._open("test")
        return self._measured_on(given, None if given is None else given.reader)

    def _measured_on(self, served: Served | None, reader: FaceReader | None) -> DataLoader[Batch]:
        if reader is None:
            return DataLoader(NoImages(self.size, self._fewest_batches()), batch_size=1, collate_fn=first_of)
        on_device = served is not None and served.on_device is not None
        return self._evaluation_loader(Places(reader) if on_device else reader, on_device)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Serve every image of the reader in its order, desensitized, not augmented."""
        tell_of_stored(self.reader, "data.reader")
        return self._evaluation_loader(self.reader, on_device=False)

    @property
    def _now(self) -> Served | None:
        """The set that the batch at hand comes from."""
        trainer: Any = self.trainer
        opened = self._evaluation.opened
        if not opened or trainer is None or trainer.training or trainer.predicting:
            return self._own
        name = "test" if trainer.testing and "test" in self._evaluation.readers else "validation"
        return opened.get(name) or self._own

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Count images that could not be decoded; more than 1 % of the set is an error.

        A rank counts its own; those of all ranks are counted together once an epoch and at the end.

        Raises:
            ValueError: the set has too many bad images; names the first few.
        """
        bad, served = batch.pop("bad", None), self._now
        if bad is not None and len(bad) and served is not None:
            served.bad.add(bad)
            served.bad.check(served.reader.name)
        return batch

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Desensitize, augment (in training) and normalise a batch on its device."""
        trainer = self.trainer
        if "places" in batch:
            served = self._now
            assert served is not None
            assert served.on_device is not None
            batch = gathered(batch, served.on_device)
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
        served = self._now
        released = self.released if served is None else served.released
        reader = self.reader if served is None else served.reader
        stored = reader.stored
        # black again is black; images that came with a mask each are not desensitized again
        masked = not released or "mask_bits" in batch or "mask_hash" in self.desensitizer.describe()
        return self.desensitize_batch(
            batch, draw_key, desensitize=masked and stored is None, stored=stored, reader=reader
        )

    def raw_samples(self, count: int) -> Tensor:
        """Return the raw pixels of a few validation images, for metrics of privacy and for nothing else.

        They come from the held-out images, else from the first verification set, else from the training set;
        the same every time, spread over the set. Of a released set nothing is raw but verification images.

        Returns:
            uint8 `[n,3,H,W]`, n ≤ `count`; n = 0 where there are none.
        """
        sampled = self.sampled(count)
        if sampled is None:
            return torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)
        return sampled.reader.__getitems__(sampled.indices.tolist())["image"]

    def sampled(self, count: int) -> Subset | None:
        """Return the images that `raw_samples` gives, as a part of their set; None where there are none.

        Args:
            count: how many at most.
        """
        verified = next(iter(self.verification), None)
        source = verified if self.released else self.held_out or verified or self.reader
        if source is None or source.released:
            return None
        at = torch.linspace(0, len(source) - 1, min(count, len(source))).round().long()
        return Subset(source, at)

    def teardown(self, stage: str) -> None:
        """Count the bad images of all ranks and warn of those met since the last warning.

        Raises:
            ValueError: the set has too many of them.
        """
        self._warn_of_bad_images()

    def _warn_of_bad_images(self) -> None:
        for served in (self._own, *self._evaluation.opened.values()):
            if served is not None:
                served.warn_of_bad_images()
