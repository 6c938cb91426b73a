"""Searching a mask: one candidate's score against the naive way (bound 0.5), halving against all (bound 0.2)."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.reader import _faces
from benchmarks.timing import CPU, PRECISION, Row, interleaved
from datamodules import DrawnFaces, FaceDataModule, FolderFaces
from lightning_app.desensitize import MaskOut
from lightning_app.distributed.precision import autocast
from lightning_app.masks import freeform_masks, mask_hash, save_mask
from lightning_app.masks.search.objective import MaskScorer
from lightning_app.masks.search.run import SearchResult, search
from lightning_app.models import ResNet
from lightning_app.models.checkpoints import read_recogniser
from lightning_app.networks.backbones.resnet import BackboneName

BATCH = 64
RATIO = (0.74, 0.78)
TINY: dict[str, Any] = {
    "repeats": 1, "size": 32, "images": 4, "network": "resnet18", "candidates": 8, "full": 64, "few": 8,
    "orders": 2, "epochs": 0,
}  # fmt: skip
_HERE = Path(__file__).resolve().parents[1]
_CHECKPOINT = _HERE / "runs" / "lfwa_resnet" / "checkpoints" / "last.ckpt"
_PEOPLE = _HERE / "data" / "study_train_people.txt"


def measure(
    repeats: int = 5,
    size: int = 112,
    images: int = 512,
    network: BackboneName = "resnet34",
    candidates: int = 512,
    full: int = 256,
    few: int = 16,
    orders: int = 20,
    epochs: int = 6,
) -> list[Row]:
    """Return a row for the time of one score and one for the forward passes of halving.

    Args:
        repeats: timed runs of each score; halving and the exhaustive search run once, three to five minutes.
        size: side of the images in pixels; the clean checkpoint is taken at 112 only.
        images: that a candidate is scored on in the first row.
        network: where there is no clean checkpoint.
        candidates: masks of the second row.
        full: images of the second row.
        few: images of it that all masks are scored on.
        orders: in which the halving is repeated.
        epochs: that a network is trained for where there is no clean checkpoint.
    """  # fmt: skip
    return [
        _one_candidate(repeats, size, images, network),
        _halving(size, candidates, full, few, orders, epochs),
    ]


def _one_candidate(repeats: int, size: int, images: int, network: BackboneName) -> Row:
    with _faces(images) as (root, what), tempfile.TemporaryDirectory() as folder:
        reader = FolderFaces(root, crop=150, size=size, cache_index=False)
        order = torch.randperm(len(reader), generator=torch.Generator().manual_seed(0))[:images].tolist()
        trained = size == 112 and _CHECKPOINT.is_file()
        model = _loaded() if trained else ResNet(network, num_classes=693, input_size=size).eval()
        classes = model.head.num_classes
        mask = freeform_masks(1, size, RATIO, generator=torch.Generator().manual_seed(0))[0]
        save_mask(mask, Path(folder, "mask.png"))
        data = FaceDataModule(reader, MaskOut(Path(folder, "mask.png")))

        @torch.inference_mode()
        def naive() -> float:
            total = 0.0
            for start in range(0, len(order), BATCH):
                raw = reader.__getitems__(order[start : start + BATCH])
                ready = data.prepare(raw["image"])
                with autocast(PRECISION, CPU):
                    logits = model(ready["image"], ready["mask"], ready["mask_index"])
                total += float(F.cross_entropy(logits.float(), raw["identity"] % classes, reduction="sum"))
            return total / len(order)

        raw = reader.__getitems__(order)
        start = time.perf_counter()
        scorer = MaskScorer(model, raw["image"], raw["identity"] % classes, bf16=PRECISION == "bf16-mixed")
        prepared = time.perf_counter() - start
        exact = MaskScorer(model, raw["image"], raw["identity"] % classes).score(mask)
        mine, theirs = scorer.score(mask), naive()
        timing = interleaved(lambda: scorer.score(mask), naive, repeats)
    weights = "the clean checkpoint" if trained else "random weights"
    return Row(
        "scoring one candidate ÷ reading, masking, inferring anew", *timing, bound=0.5,
        note=f"{'resnet34' if trained else network} ({weights}), {size} px, {len(order)} images ({what}), "
        f"{PRECISION} both, {torch.get_num_threads()} threads; F {mine:.4f} against {theirs:.4f}, in fp32 {exact:.4f}; "
        f"{prepared:.1f} s once to prepare",
    )  # fmt: skip


class _Recorded(MaskScorer):
    """A scorer that keeps the loss of every image under every mask."""

    kept: dict[str, Tensor]

    def losses(self, mask: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        found = super().losses(mask, start, stop)
        if len(found) == len(self):
            self.kept[mask_hash(mask)] = found
        return found


class _Replayed(MaskScorer):
    """The same losses again with the images in another order, without a model."""

    def __init__(self, recorded: _Recorded, order: Tensor) -> None:
        self.kept, self.size, self.passes = recorded.kept, recorded.size, 0
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def losses(self, mask: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        return self.kept[mask_hash(mask)][self._order[start:stop]]

    def fingerprint(self) -> dict[str, object]:
        return {}


def _halving(size: int, candidates: int, full: int, few: int, orders: int, epochs: int) -> Row:
    model, images, labels, what = _recogniser(size, full, epochs)
    scorer = _Recorded(model, images, labels, bf16=PRECISION == "bf16-mixed")
    scorer.kept = {}
    side = scorer.size
    start = time.perf_counter()
    everything = search(scorer, side, RATIO, candidates=candidates)
    middle = time.perf_counter()
    halved = search(scorer, side, RATIO, candidates=candidates, strategy="halving", min_images=few)
    end = time.perf_counter()
    shuffled = [
        torch.randperm(len(scorer), generator=torch.Generator().manual_seed(seed)) for seed in range(orders)
    ]
    again = [
        search(
            _Replayed(scorer, order), side, RATIO, candidates=candidates, strategy="halving", min_images=few
        )
        for order in shuffled
    ]
    gaps = [_gap(one, everything) for one in again]
    values = [row.value for row in everything.rows]
    share = halved.passes / everything.passes
    return Row(
        f"forward passes of halving ÷ all, {candidates} candidates", end - middle, middle - start,
        share, share, share, bound=0.2,
        note=f"{what}, {len(scorer)} images, from {few}: objective {_gap(halved, everything):.2f} % above the best "
        f"of all (bound 1 %); over {orders} other orders of the images median {statistics.median(gaps):.2f} %, "
        f"largest {max(gaps):.2f} %, {sum(gap <= 1 for gap in gaps)} within 1 %; the candidates' objectives: "
        f"{min(values):.3f}, median {statistics.median(values):.3f}, {max(values):.3f}",
    )  # fmt: skip


def _gap(found: SearchResult, everything: SearchResult) -> float:
    """Return how far the full-data objective of what was found lies above the best one, in % of that."""
    best = everything.best.value
    value = next(row.value for row in everything.rows if row.number == found.best.number)
    return 100 * (value - best) / abs(best)


def _recogniser(size: int, full: int, epochs: int) -> tuple[ResNet, Tensor, Tensor, str]:
    """Return the clean checkpoint with LFW-a where both are at hand, else a small network trained on drawn faces."""
    root = _HERE / "data" / "lfw"
    if size == 112 and _CHECKPOINT.is_file() and root.is_dir() and _PEOPLE.is_file():
        reader = FolderFaces(
            root, people=_PEOPLE, min_images=3, max_images=60, crop=150, size=size, cache_index=False
        )
        some = torch.randperm(len(reader), generator=torch.Generator().manual_seed(0))[:full].tolist()
        raw = reader.__getitems__(some)
        return (
            _loaded(),
            raw["image"],
            raw["identity"],
            "clean ResNet-34 at 112 px, LFW-a images it was trained on",
        )
    each = 3 * full // 32  # two thirds of them to train on
    faces = DrawnFaces(identities=32, images_per_identity=each, size=size // 2)
    raw = faces.__getitems__(range(len(faces)))
    held = torch.arange(len(faces)) % each < full // 32
    torch.manual_seed(0)
    model = ResNet("resnet18", num_classes=32, input_size=size // 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pixels, labels = (raw["image"][~held].float() / 255 - 0.5) / 0.5, raw["identity"][~held]
    for _ in range(epochs):
        for at in torch.randperm(len(pixels)).split(BATCH):
            with autocast(PRECISION, CPU):
                logits = model(pixels[at])
            optimizer.zero_grad()
            F.cross_entropy(logits.float(), labels[at]).backward()
            optimizer.step()
    return (
        model,
        raw["image"][held],
        raw["identity"][held],
        f"ResNet-18 at {size // 2} px trained briefly on drawn faces",
    )


def _loaded() -> ResNet:
    model = read_recogniser(_CHECKPOINT)[0]  # Lightning's own would import what the file names
    assert isinstance(model, ResNet)
    return model
