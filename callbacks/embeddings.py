"""What `predict` leaves behind: the embedding of every image, and whose it is."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.readers.base import FaceReader
from datamodules.same_data import Split
from lightning_app.core.csv_text import csv_text
from lightning_app.core.files import PRIVATE, write_atomically
from lightning_app.desensitize import Desensitizer
from lightning_app.runs.atomic import files_at_once, recover

log = logging.getLogger("faceveil")
_SET = "faceveil_set"  # metadata: hash of the set the embeddings are of


class Embeddings(BasePredictionWriter):
    """Write the embeddings of all images as safetensors, and a CSV of who is on which, when `predict` ends.

    Tensors, in the reader's order: `embedding` `[N,D]` float32, the avgpool output; `identity` `[N]` int64, the
    class of each image; `index` `[N]` int64, its number in the reader; of a task `target` `[N]` int64, the class, while
    `identity` is the person, −1 where it is not known. The CSV of the same name has a row for each image in the same
    order: `index`, `identity` (the name; of a task `class`), `image` (its path under the set's root; of a release both
    are pseudonyms). It names people, so only its owner may read it. Of several processes each writes its share, as
    `embeddings.RANK.safetensors`. Both files take their places together: a kill leaves no names of another set beside
    embeddings.

    Args:
        output: the file to write, `….safetensors`; by default `embeddings.safetensors` in the run folder.
        overwrite: replace a file that holds something else than earlier embeddings of the same set, or more of them.

    Raises:
        ValueError: `output` does not end in .safetensors.
        FileExistsError: the file is there and is not known to be of the same set, or has embeddings of more images of
            it; raised before anything is embedded.
    """

    def __init__(self, output: str | None = None, overwrite: bool = False) -> None:
        super().__init__(write_interval="epoch")
        if output is not None and Path(output).suffix != ".safetensors":
            raise ValueError(
                f"--output {output}: embeddings are safetensors; give a name that ends in .safetensors"
            )
        self.output, self.overwrite = output, overwrite

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse to write over what is not of this set."""
        if stage != "predict" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        reader = _reader(trainer)
        path = self._path(trainer)
        recover(path)  # what a killed `predict` had decided
        for there in (path, path.with_suffix(".csv")):
            if there.is_dir():
                raise FileExistsError(f"--output {there}: is a folder; give the name of a file")
        found = next((one for one in (path, path.with_suffix(".csv")) if one.exists()), None)
        if found is None or self.overwrite or (reader is not None and _set_of(path) == _set(trainer, reader)):
            return
        raise FileExistsError(
            f"{found} is there and not known to hold embeddings of this set ({_called(reader)}), desensitized as here: "
            "give another --output NAME.safetensors, or --overwrite to replace it"
        )

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse to put the embeddings of some images in the place of those of more."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._check_not_shorter(trainer, _count(trainer))

    def _check_not_shorter(self, trainer: L.Trainer, count: int | None) -> None:
        path = self._path(trainer)
        there = None if self.overwrite else _rows_of(path)
        if there is not None and count is not None and count < there:
            raise FileExistsError(
                f"{path} holds {there} embeddings of this set, and {count} would take their place "
                f"(--trainer.limit_predict_batches {trainer.limit_predict_batches}): "
                "embed all, give another --output NAME.safetensors, or --overwrite to replace them"
            )

    def write_on_epoch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any] | None,
    ) -> None:
        """Write all predictions of this process."""
        if not predictions or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        tensors = {key: torch.cat([part[key] for part in predictions]) for key in predictions[0]}
        order = torch.argsort(tensors["index"])
        tensors = {key: value[order].contiguous() for key, value in tensors.items()}
        self._check_not_shorter(
            trainer, len(tensors["index"])
        )  # of a loader that nothing can be asked before
        reader, path = _reader(trainer), self._path(trainer)
        table = path.with_suffix(".csv")
        with files_at_once(path.parent, {path.name: path.name, table.name: table.name}) as work:
            # biometric data: whoever has them can link images of one person
            content = save(tensors, None if reader is None else {_SET: _set(trainer, reader)})
            write_atomically(work / path.name, content, mode=PRIVATE)
            if reader is not None:
                # names that are no UTF-8 are written as the file system has them
                names = _table(reader, tensors).encode("utf-8", "surrogateescape")
                write_atomically(work / table.name, names, mode=PRIVATE)
        log.info("%d embeddings of %d numbers each: %s", *tensors["embedding"].shape, path)
        if reader is not None:
            log.info("Who is on which image, a row for each embedding: %s", table)

    def _path(self, trainer: L.Trainer) -> Path:
        path = Path(self.output or Path(trainer.default_root_dir) / "embeddings.safetensors")
        return path.with_suffix(f".{trainer.global_rank}.safetensors") if trainer.world_size > 1 else path


def _reader(trainer: L.Trainer) -> FaceReader | None:
    """Return what `predict` reads; None of a DataModule of somebody else's."""
    reader = getattr(getattr(trainer, "datamodule", None), "reader", None)
    return reader if isinstance(reader, FaceReader) else None


def _set(trainer: L.Trainer, reader: FaceReader) -> str:
    """Hash a set: its names in their order, the bytes of some images, what decides the pixels and what is done to them.

    A copy of a set is that set. Pictures of other people under the same names are another, and so are clean faces.
    """
    desensitizer = getattr(getattr(trainer, "datamodule", None), "desensitizer", None)
    described = desensitizer.describe() if isinstance(desensitizer, Desensitizer) else None
    own = Split(reader, 0.0, 0).facts["set"]
    facts = json.dumps([own, reader.pixel_facts(), described], sort_keys=True, default=str)
    return hashlib.sha256(os.fsencode(facts)).hexdigest()


def _set_of(path: Path) -> str | None:
    """Read of which set a file of embeddings is; None where it does not say."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get(_SET)
    except (SafetensorError, OSError):  # another file: then of no set
        return None


def _rows_of(path: Path) -> int | None:
    """Return how many embeddings a file has; None where it has none."""
    try:
        with safe_open(path, framework="pt") as file:
            return int(file.get_slice("embedding").get_shape()[0])
    except (SafetensorError, OSError, IndexError):  # no such file, or another
        return None


def _count(trainer: L.Trainer) -> int | None:
    """Return how many images this process will embed where that is limited; None where it is not, or nobody knows."""
    loader, batches = trainer.predict_dataloaders, sum(trainer.num_predict_batches)
    if not isinstance(loader, DataLoader) or batches >= len(loader):
        return None
    size = getattr(loader.batch_sampler, "batch_size", None)
    return None if size is None else int(batches * size)


def _called(reader: FaceReader | None) -> str:
    return "of somebody else's class" if reader is None else f"{type(reader).__name__}, {len(reader)} images"


def _table(reader: FaceReader, tensors: Mapping[str, Tensor]) -> str:
    who = "identity" if reader.classes_are_people else "class"
    labels = reader.labels.tolist()
    rows = (
        (index, reader.identities[labels[index]], reader.stable_name(index))
        for index in tensors["index"].tolist()
    )
    return csv_text([("index", who, "image"), *rows])
