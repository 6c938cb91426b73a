"""LFW verification: are two images of the same person, by the protocol of `pairs.txt`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import lightning as L
import torch
from safetensors.torch import save

from callbacks.measured import log_measurements
from callbacks.sharded import ImageState, cosine_scores, datamodule_of, embed_sharded, is_due
from datamodules.face import FaceDataModule
from datamodules.precomputed import check_pictures
from datamodules.readers.base import FaceReader
from datamodules.readers.stored import tell_of_stored
from datamodules.same_description import alone, check_key, summary
from datamodules.split import digest
from datamodules.verification.readers import BinFaces, PairFaces, pairs_of
from lightning_app.core.files import write_atomically
from lightning_app.core.measurement import Measurement
from lightning_app.core.text_file import composed
from lightning_app.desensitize import Desensitizer
from lightning_app.distributed.ranks import agree
from lightning_app.metrics import Verification, VerificationResult
from lightning_app.metrics.verification import Protocol
from lightning_app.release.format.own_masks import no_way

log = logging.getLogger("faceveil")
Situation = Literal[1, 2, 3]


class LFWVerification(L.Callback):
    """Verify on a list of pairs after validation and log accuracy, AUC, EER and TAR@FAR with intervals.

    Every unique image is read once and embedded once per state (clean, desensitized); cosine similarity
    decides. Every fold has as many same and as many different pairs as the others; where those of a list have not,
    its pairs are dealt anew, and a line says so (`datamodules.verification.pair_folds.sound_folds`). Situation 1: both
    desensitized; 2: the first clean, the second desensitized; 3: both clean (paper, 4.3). Keys: `lfw/accuracy`
    (situation 1), `lfw/accuracy_s1` … `_s3`, and the like.

    Args:
        root: folder of images, one folder per identity, as LFW has it.
        pairs: list of pairs, in LFW's form or as `path path same` lines; `pairs.txt` in or beside the root by default.
        bin: an InsightFace `.bin` set instead of a folder.
        reader: any other verification set, by `class_path`: a reader with an attribute `pairs`.
        situations: which of the three to measure; only the first where nothing is desensitized, or where what
            is released is no picture.
        flip: add the embedding of the mirrored image (InsightFace's habit).
        missing: `skip` drops pairs whose images are missing, `error` refuses the list.
        crop: crop box, or side of the central square, in source pixels; the training reader's by default.
        every_n_epochs: how often within `fit`; the last epoch is always verified.
        batch_size: images per step; the DataModule's by default.
        bootstrap: resamples behind the 95 % intervals.
        name: first part of the log keys.
        desensitizer: verify under another one than training's, such as masks that were never trained on; by default
            under the DataModule's.
        keep_scores: write the score of every pair into the run folder, `scores/<name>.safetensors`: `scores_s1` …
            `[P]` float32, `same` and `folds` `[P]`; runs on the same pairs can then be compared pair by pair, see
            `lightning_app.metrics.paired`.
        protocol: `lfw`, or `insightface`: thresholds by 0.01 in squared distance, and the embedding of the mirrored
            image added (`flip`), as InsightFace reports its metrics; the same folds. See
            `lightning_app.metrics.verification`.

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
        desensitizer: Desensitizer | None = None,
        keep_scores: bool = False,
        protocol: Protocol = "lfw",
    ) -> None:
        if protocol not in ("lfw", "insightface"):
            raise ValueError(f"protocol={protocol!r}: give lfw or insightface")
        if sum(x is not None for x in (root, bin, reader)) != 1:
            raise ValueError(
                f"root={root}, bin={bin}, reader={reader}: LFWVerification needs exactly one of them to know "
                "which images to verify on"
            )
        if reader is not None and reader.pairs is None:
            raise ValueError(
                f"reader={type(reader).__name__}: it has no list of pairs; use PairFaces or DrawnPairs"
            )
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs={every_n_epochs}: give at least 1")
        self.root, self.pairs, self.bin, self.reader = root, pairs, bin, reader
        self.situations: list[Situation] = situations or [1, 2, 3]
        self.protocol: Protocol = protocol
        self.flip, self.missing, self.crop = flip or protocol == "insightface", missing, crop
        self.every_n_epochs, self.batch_size = every_n_epochs, batch_size
        self.bootstrap, self.name, self.desensitizer = bootstrap, name, desensitizer
        self.keep_scores = keep_scores
        self.results: dict[int, VerificationResult] = {}
        self.measurements: list[Measurement] = []
        self._told = self._clean_told = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Read the list, check that its images are there, report identities shared with the training set.

        Raises:
            FileNotFoundError, ValueError: the list or its images cannot be used; the message says why.
        """
        data = datamodule_of(trainer, "LFWVerification")
        self.reader = self.open(data)
        self._check_desensitizer(data)
        check_pictures(self.desensitizer or data.desensitizer, self.reader)
        if self.reader not in data.verification:
            data.verification.append(self.reader)
            tell_of_stored(self.reader, self.name)
        reader, pairs = self.reader, pairs_of(self.reader)
        agree(f"verification set {self.name}",
              lambda: {"images": len(reader), "pairs": len(pairs), "order": digest(reader)[:12]})  # fmt: skip
        if stage == "fit" and not self._told and not self.reader.identities:
            self._told = True
            log.info(
                "%s: its pairs do not tell who is on the images: whether some are in the training set too cannot be "
                "checked.", self.name,
            )  # fmt: skip
        if stage == "fit" and not self._told and self.reader.identities:
            self._told = True
            if data.released:
                log.info(
                    "%s: a released set has pseudonyms: identities that both have are not found.", self.name
                )
            shared = sorted(
                {*map(composed, data.reader.identities)} & {*map(composed, self.reader.identities)}
            )
            if shared:
                log.warning(
                    "%s: %d of %d identities are in the training set too (%s, …): its metrics are contaminated.",
                    self.name, len(shared), len(self.reader.identities), ", ".join(shared[:3]),
                )  # fmt: skip

    def open(self, data: FaceDataModule) -> FaceReader:
        """Return the reader of the verification images, made when first asked for.

        Args:
            data: whose size, and whose crop where none was given, the images take.

        Raises:
            FileNotFoundError, ValueError: the list or its images cannot be used; the message says why.
        """
        if self.reader is None:
            crop = self.crop if self.crop is not None else data.reader.crop
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
        pairs_of(self.reader)
        return self.reader

    def _check_desensitizer(self, data: FaceDataModule) -> None:
        """Refuse a desensitizer of the callback's own that gives the network what it does not take."""
        ours, theirs = self.desensitizer, data.desensitizer
        assert self.reader is not None
        if self.reader.released:
            self._check_released(self.reader, data)
            return
        if ours is None:
            if theirs.lacks_key:
                raise ValueError(f"{self.name}: {no_way(theirs)}")
            return
        ours.prepare((data.size, data.size))
        check_key(theirs.describe(), ours.describe())
        gives = [(d.out_channels, d.out_size(data.size), d.is_image) for d in (ours, theirs)]
        if gives[0] != gives[1]:
            raise ValueError(
                f"{self.name}: desensitizer {type(ours).__name__} gives {gives[0][0]} channels of {gives[0][1]} px, "
                f"the network takes {gives[1][0]} of {gives[1][1]} px, of {type(theirs).__name__}: verify under one of "
                "the same kind"
            )

    def _check_released(self, reader: FaceReader, data: FaceDataModule) -> None:
        """Refuse a released set to verify on that was not made as the training images are."""
        ours = reader.desensitizer()
        assert ours is not None
        theirs = alone(data.desensitizer.describe())
        check_key(theirs, alone(ours.describe()))
        if theirs != alone(ours.describe()) or self.desensitizer is not None:
            raise ValueError(
                f"{self.name}: its images were released by {summary(ours.describe())}, the training images are "
                f"desensitized by {summary(data.desensitizer.describe())}: verify on a release by the same method and "
                "key, with no desensitizer of its own"
            )
        if self.flip and not ours.flips:
            raise ValueError(
                f"{self.name}: {'flip: true' if self.protocol == 'lfw' else 'protocol: insightface mirrors images'}, "
                f"but what {ours.describe()['method']} returns cannot be mirrored, and the raw images are not here; "
                "give flip: false and protocol: lfw"
            )

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Verify, when it is due."""
        if is_due(trainer, self.every_n_epochs):
            self.verify(trainer, pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Verify."""
        self.verify(trainer, pl_module)

    def _possible(self, data: FaceDataModule) -> list[int]:
        """List the situations that can be measured: a network that takes a representation takes no clean face."""
        assert self.reader is not None
        if data.desensitizer.is_image and not self.reader.released:
            return list(self.situations)
        if not self._clean_told:
            self._clean_told = True
            if data.desensitizer.is_image:
                log.info(
                    "%s: its images are released ones, no clean ones are here: situation 1 alone.", self.name
                )
            else:
                log.info(
                    "%s: %s releases no pictures, and its recogniser takes no clean ones: situation 1 alone.",
                    self.name, data.desensitizer.called,
                )  # fmt: skip
        return [1]

    def verify(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Embed, score and log all situations."""
        assert self.reader is not None
        data = datamodule_of(trainer, "LFWVerification")
        hides = (self.desensitizer or data.desensitizer).hides
        situations = self._possible(data)
        states = {
            "desensitized": hides and set(situations) != {3},
            "clean": not hides or bool({2, 3} & {*situations}),
        }
        ways = {
            state: ImageState(desensitized=state == "desensitized")
            for state, wanted in states.items()
            if wanted
        }
        embeddings = embed_sharded(
            trainer, pl_module, data, self.reader, ways,
            batch_size=self.batch_size, flip=self.flip, title=f"Verifying on {self.name}",
            by=self.desensitizer,
        )  # fmt: skip
        if not hides:
            embeddings["desensitized"] = embeddings["clean"]
        pairs = pairs_of(self.reader)
        self.measurements = []
        kept: dict[str, torch.Tensor] = {}
        for situation in situations if hides else situations[:1]:
            first = embeddings["desensitized" if situation == 1 else "clean"]
            second = embeddings["clean" if situation == 3 else "desensitized"]
            scores = cosine_scores(first, second, pairs)
            kept[f"scores_s{situation}"] = torch.from_numpy(scores).float()
            # the embeddings of all ranks are here: nothing to bring together
            metric = Verification(
                bootstrap=self.bootstrap, prefix=self.name, protocol=self.protocol, sync_on_compute=False
            )
            metric.update(torch.from_numpy(scores), pairs.same, pairs.folds, torch.arange(len(pairs)))
            metric.compute()
            assert metric.result is not None
            result = self.results[situation] = metric.result
            if situation == 1 or not hides:
                self.measurements += result.measurements(self.name)
            self.measurements += result.measurements(self.name, f"_s{situation}")
        log_measurements(trainer, pl_module, self.measurements)
        if self.keep_scores and trainer.is_global_zero:
            kept |= {"same": pairs.same.to(torch.uint8), "folds": pairs.folds.to(torch.int16)}
            write_atomically(
                Path(trainer.default_root_dir) / "scores" / f"{self.name}.safetensors", save(kept)
            )
