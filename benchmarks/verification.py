"""LFW verification against embedding both images of every pair: bound 0.66 of the time, equal accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import CPU, PRECISION, Row, interleaved
from callbacks.sharded import ImageState, embed_sharded
from datamodules import DrawnFaces, DrawnPairs, FaceDataModule, PairFaces
from datamodules.readers.base import FaceReader
from datamodules.verification.readers import PairList
from lightning_app.distributed.precision import autocast
from lightning_app.metrics import verification
from lightning_app.models import ResNet

BATCH = 64
TINY: dict[str, Any] = {"repeats": 1, "size": 32, "people": 4, "pairs_per_fold": 2}


def _set(size: int, people: int | None, pairs_per_fold: int) -> tuple[FaceReader, PairList, str]:
    root, pairs = Path("data/lfw"), Path("data/pairs.txt")
    if people is None and root.is_dir() and pairs.is_file():
        lfw = PairFaces(root, pairs, size=size, crop=150)
        return lfw, lfw.pairs, "LFW View 2"
    drawn = DrawnPairs(
        identities=people or 200, images_per_identity=5, size=size, pairs_per_fold=pairs_per_fold
    )
    return drawn, drawn.pairs, "drawn faces"


def measure(
    repeats: int = 3, size: int = 112, people: int | None = None, pairs_per_fold: int = 75
) -> list[Row]:
    """Return one row, for situation 1 with an untrained ResNet-18.

    Args:
        repeats: timed runs of each.
        size: side of the images in pixels.
        people: how many are drawn; by default LFW where it is at hand, else 200.
        pairs_per_fold: of each kind, where people are drawn.
    """
    reader, pairs, name = _set(size, people, pairs_per_fold)
    model = ResNet(backbone="resnet18", num_classes=2, input_size=size).eval()
    data = FaceDataModule(DrawnFaces(identities=2, size=size), global_batch_size=BATCH)
    trainer = L.Trainer(
        accelerator="cpu", precision=PRECISION, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    found: dict[str, float] = {}

    def score(first: Tensor, second: Tensor) -> float:
        scores = (first * second).sum(1).double().numpy()
        return verification(scores, pairs.same.numpy(), pairs.folds.numpy(), bootstrap=0).accuracy

    def ours() -> None:
        embeddings = embed_sharded(trainer, model, data, reader, {"clean": ImageState(desensitized=False)})[
            "clean"
        ]
        found["ours"] = score(embeddings[pairs.a], embeddings[pairs.b])

    @torch.no_grad()
    def embed_list(ids: Tensor) -> Tensor:
        parts = []
        for chunk in ids.split(BATCH):
            ready = data.prepare(reader.__getitems__(chunk.tolist())["image"], desensitize=False)
            with autocast(PRECISION, CPU):
                parts.append(model.embed(ready["image"]).float())
        return F.normalize(torch.cat(parts))

    def peer() -> None:
        found["peer"] = score(embed_list(pairs.a), embed_list(pairs.b))

    timing = interleaved(ours, peer, repeats, warmup=0)
    note = (
        f"{name}: {len(reader)} images, {len(pairs)} pairs, {PRECISION}; accuracy {found['ours']:.4f} against "
        f"{found['peer']:.4f}"
    )
    return [Row("verification ÷ both images of every pair", *timing, 0.66, note)]
