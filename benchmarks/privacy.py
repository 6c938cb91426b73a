"""Measuring all attacks of one method against making and embedding every image anew for each measure: bound 0.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import Row, interleaved
from datamodules import DrawnFaces, DrawnPairs, FaceDataModule
from lightning_app.attacks import Attack, MeanFace, NavierStokes, Telea
from lightning_app.desensitize import MaskOut
from lightning_app.evaluation.judges.base import Judge
from lightning_app.evaluation.privacy import Subjects
from lightning_app.evaluation.privacy import measure as measure_attack
from lightning_app.evaluation.privacy_metrics import privacy_metrics
from lightning_app.metrics import dssim, psnr, verification
from lightning_app.metrics.reidentification import mate_ranks, rank_k
from lightning_app.models import ResNet

TINY: dict[str, Any] = {"repeats": 1, "size": 32, "people": 4, "pairs_per_fold": 2}
_BATCH = 64
_JUDGE = "clean"


class _Untrained(Judge):
    """A ResNet-18 as a judge: its weights do not matter for what it costs."""

    def __init__(self, size: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = ResNet(backbone="resnet18", num_classes=2, input_size=size).eval()
        self.input_size = size

    def embed(self, images: Tensor) -> Tensor:
        return self.model.embed((images - 0.5) / 0.5).float()


class _Naive:
    """Each metric by itself, as a script per measure computes it: it desensitizes, attacks and embeds again."""

    def __init__(self, reader: DrawnPairs, data: FaceDataModule, judge: Judge) -> None:
        self.reader, self.data, self.judge = reader, data, judge

    def pictures(self, rows: Tensor, attack: Attack | None) -> tuple[Tensor, Tensor, Tensor]:
        clean, seen, masks = [], [], []
        for part in rows.split(_BATCH):
            raw = self.reader.__getitems__(part.tolist())["image"]
            released = self.data.desensitized(raw, part)
            assert released["mask"] is not None
            masks.append(released["mask"][released["mask_index"]])
            clean.append(raw.float() / 255)
            seen.append(released["image"] if attack is None else attack.restore(released))
        return torch.cat(clean), torch.cat(seen), torch.cat(masks)

    def embedded(self, images: Tensor) -> Tensor:
        return F.normalize(torch.cat([self.judge(part) for part in images.split(_BATCH)]))

    def metrics(self, attack: Attack | None) -> dict[str, float]:
        everybody, pairs, labels = torch.arange(len(self.reader)), self.reader.pairs, self.reader.labels
        out = {}
        for name, metric in (("dssim", dssim), ("psnr", psnr)):
            clean, seen, _ = self.pictures(everybody, attack)
            out[name] = float(metric(clean, seen).mean())
        clean, seen, masks = self.pictures(everybody, attack)
        out["psnr_hidden"] = float(psnr(clean, seen, 1 - masks).mean())
        clean, seen, _ = self.pictures(everybody, attack)
        out[f"similarity/{_JUDGE}"] = float((self.embedded(clean) * self.embedded(seen)).sum(1).mean())
        first = torch.tensor([labels.tolist().index(label) for label in labels.unique().tolist()])
        probes = everybody[~torch.isin(everybody, first)]
        for name, k in (("rank1", 1), ("rank5", 5)):
            gallery = self.embedded(self.pictures(first, attack)[0])
            found = self.embedded(self.pictures(probes, attack)[1])
            out[f"{name}/{_JUDGE}"] = rank_k(mate_ranks(found, labels[probes], gallery, labels[first]), k)
        for name, side in (("verification", 0), ("accuracy", 1)):
            one = self.embedded(self.pictures(pairs.a, attack)[side])
            two = self.embedded(self.pictures(pairs.b, attack)[1])
            scores = (one * two).sum(1).double()
            out[f"{name}/{_JUDGE}"] = verification(scores, pairs.same, pairs.folds, bootstrap=0).accuracy
        return out


def measure(repeats: int = 3, size: int = 64, people: int = 20, pairs_per_fold: int = 10) -> list[Row]:
    """Return one row: a masked set as released and after three attacks, by one judge, no bootstrap, no LPIPS.

    Args:
        repeats: timed runs of each.
        size: side of the images in pixels.
        people: how many, five images each.
        pairs_per_fold: of each kind, ten folds.
    """
    reader = DrawnPairs(identities=people, images_per_identity=5, size=size, pairs_per_fold=pairs_per_fold)
    data = FaceDataModule(reader, MaskOut(freeform=(0.7, 0.8)), global_batch_size=_BATCH)
    data.desensitizer.prepare((size, size))
    faces = DrawnFaces(identities=20, images_per_identity=1, size=size)
    attacks = {"": None, "mean/": MeanFace(reader=faces, images=20), "Telea/": Telea(), "NS/": NavierStokes()}
    judge, found = _Untrained(size), dict[str, dict[str, float]]()

    @torch.inference_mode()
    def ours() -> None:
        subjects, made = Subjects(reader, _BATCH), dict[str, float]()
        for head, attack in attacks.items():
            part = measure_attack(subjects, data, attack, [judge], [judge], {"lpips": torch.empty(0)})
            of = privacy_metrics(
                {k: v for k, v in part.items() if k != "lpips"}, subjects, *_eyes(judge), bootstrap=0
            )
            made |= {f"{head}{key}": value for key, value in of.items()}
        found["ours"] = made

    @torch.inference_mode()
    def peer() -> None:
        naive, made = _Naive(reader, data, judge), dict[str, float]()
        for head, attack in attacks.items():
            made |= {f"{head}{key}": value for key, value in naive.metrics(attack).items()}
        found["peer"] = made

    timing = interleaved(ours, peer, repeats, warmup=0)
    apart = {key: abs(found["ours"][key] - value) for key, value in found["peer"].items()}
    worst = max(apart, key=lambda key: apart[key])
    if apart[worst] > 1e-3:
        raise AssertionError(
            f"{worst}: {found['ours'][worst]} measured once, {found['peer'][worst]} measured by itself"
        )
    note = (
        f"{len(reader)} images of {size} px, {len(reader.pairs.a)} pairs, as released and after 3 attacks; "
        f"{len(apart)} metrics differ by {apart[worst]:.1e} at most"
    )
    return [Row("all metrics of a method's attacks, each image embedded once", *timing, 0.5, note)]


def _eyes(judge: Judge) -> tuple[Mapping[str, Judge], Mapping[str, Judge]]:
    return {_JUDGE: judge}, {_JUDGE: judge}
