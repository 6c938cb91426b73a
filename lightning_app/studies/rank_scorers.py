"""The study behind `rank-scorers`: whether a scorer's F ranks masks as the accuracy after training does."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.face import FaceDataModule
from lightning_app.cli.configs import find_config
from lightning_app.core.files import write_atomically
from lightning_app.masks import MaskScorer, load_mask, mask_hash, mask_ratio
from lightning_app.metrics.rank import rank_correlation
from lightning_app.models.base import Recogniser
from lightning_app.models.checkpoints import read_recogniser
from lightning_app.report import png_bytes, read_metrics, write_metrics
from lightning_app.report.scorers import scorers_chart
from lightning_app.report.tables import Scalar
from lightning_app.studies.ablate import AblationPlan
from lightning_app.studies.ablate.read import read_plan
from lightning_app.studies.faces import check_trained_on, refuse_released, scored_faces

log = logging.getLogger("faceveil")
_FEWEST = 4  # masks below which a rank correlation says nothing
By = Mapping[str, Mapping[str, float]]  # who says it → mask → metric, or mask → system → metric


@dataclass(frozen=True)
class RankedScorers:
    """What is found of scorers.

    Attributes:
        metrics: what `scorers.json` holds.
        rows: scorer, system, number of masks, rho and its interval in words, a row for each scorer and system.
        picture: file of the chart.
    """

    metrics: dict[str, Scalar]
    rows: list[list[object]]
    picture: Path


def rank_scorers(
    ablation: str,
    scorers: dict[str, str],
    data: FaceDataModule,
    images: int | None = 1024,
    batch_size: int = 64,
    seed: int = 0,
    bootstrap: int = 2000,
    runs: str = "runs",
) -> RankedScorers:
    """Correlate what scorers say of masks before training with the accuracy after it.

    Each variant of an ablation has a mask, and each of its systems an accuracy under it. Every scorer gives each
    mask its F, on held-out images as `search-mask` takes them. Spearman's rho of −F and accuracy is 1 where the
    scorer ranks the masks as training does. In `<runs>/<ablation>/`: `scorers.json` and `scorers.png`.

    Args:
        ablation: config of an `ablate` that was run, with a mask in every variant.
        scorers: name -> checkpoint, such as the clean model and one trained under random masks.
        data: the image set, as in the config that the checkpoints were trained with: same val_share and seed.
        images: how many held-out images F is the mean of, drawn by the seed; null takes all.
        batch_size: images per step.
        seed: seed of the images' draw and of the resamples.
        bootstrap: resamples of the masks behind the 95 % intervals.
        runs: folder in which the ablation's folder lies.

    Returns:
        Metrics `scorers/<scorer>/<mask>/F`, `scorers/<scorer>/<system>/rho`, `_low`, `_high`, and a row for each rho.

    Raises:
        FileNotFoundError: the ablation was not run, or a mask or checkpoint is not there.
        ValueError: fewer than four masks have an accuracy, a mask is not the one that was trained under, or a
            checkpoint does not fit the data.

    Source: ours; the paper (3.2) scores with the clean model without testing it.
    """
    plan = _plan(ablation, Path(runs))
    accuracy = _accuracies(plan)
    masks = _trained_masks(plan, ablation, accuracy)
    refuse_released(data, "rank-scorers")
    data.setup("fit")
    models, hashes = {}, {}
    for name, path in scorers.items():
        models[name], facts = read_recogniser(path)
        check_trained_on(path, facts, data, clean=False)
        hashes[name] = facts.sha256
    pixels, labels = scored_faces(data, images, seed)
    loaded = {label: load_mask(path, data.size) for label, path in masks.items()}
    metrics: dict[str, Any] = {"scorers/images": len(labels), "scorers/masks": len(masks)}
    for label, mask in loaded.items():
        metrics |= {f"scorers/{label}/P": mask_ratio(mask), f"scorers/{label}/mask_hash": mask_hash(mask)}
    losses: dict[str, dict[str, float]] = {}
    for name, model in models.items():
        metrics[f"scorers/{name}/checkpoint"] = hashes[name]
        losses[name] = _losses(name, model, loaded, pixels, labels, data, batch_size)
        metrics |= {f"scorers/{name}/{label}/F": F for label, F in losses[name].items()}
    found, rows = _correlations(losses, accuracy, list(masks), bootstrap, seed)
    written = write_metrics(plan.folder / "scorers.json", metrics | found)
    chart = scorers_chart(losses, accuracy, title=f"{plan.folder.name}: F on {len(labels)} held-out images")
    write_atomically(plan.folder / "scorers.png", png_bytes(chart))
    return RankedScorers(written, rows, plan.folder / "scorers.png")


def _plan(ablation: str, runs: Path) -> AblationPlan:
    """Return the runs of an ablation that was run."""
    plan = read_plan(str(find_config(ablation)), runs)
    if not (plan.folder / "metrics.json").is_file():
        raise FileNotFoundError(
            f"ablation {ablation}: {plan.folder} has no metrics.json; run `python main.py ablate --config {ablation}` "
            "first"
        )
    return plan


def _accuracies(plan: AblationPlan) -> dict[str, dict[str, float]]:
    """Return variant → system → accuracy, of the variants that have a mask."""
    measured = read_metrics(plan.folder / "metrics.json")
    return {
        label: _of_variant(label, plan.systems, measured)
        for label in plan.variants
        if plan.mask(label) is not None
    }


def _of_variant(label: str, systems: Iterable[str], measured: Mapping[str, Scalar]) -> dict[str, float]:
    keys = {f"ablation/{label}/{system}/accuracy": system for system in systems}
    return {keys[key]: value for key, value in measured.items() if key in keys and isinstance(value, float)}


def _trained_masks(plan: AblationPlan, ablation: str, accuracy: By) -> dict[str, Path]:
    """Return the masks of the variants that have an accuracy; refuse too few, and others than were trained under."""
    masks = {label: mask for label in accuracy if accuracy[label] and (mask := plan.mask(label)) is not None}
    if len(masks) < _FEWEST:
        raise ValueError(
            f"ablation {ablation}: {len(masks)} masks have an accuracy in {plan.folder / 'metrics.json'}; a rank "
            f"correlation needs {_FEWEST} or more, run `ablate` to its end first"
        )
    unknown = []
    for label, path in masks.items():
        now, records = mask_hash(load_mask(path)), [plan.record(job) for job in plan.jobs(label, path)]
        kept = {
            record: json.loads(record.read_text(encoding="utf-8")) for record in records if record.is_file()
        }
        for record, description in kept.items():
            if (then := description["mask_hash"]) != now:
                raise ValueError(
                    f"mask {path}: its hash is {now[:12]}…, but {plan.folder / record.stem} was made under one of "
                    f"{str(then)[:12]}… ({record}): put that mask back, or remove run and record and `ablate` again"
                )
        unknown += [] if kept else [label]
    if unknown:
        log.warning(
            "%s: whether these masks are those that were trained under cannot be checked, their runs left no record: "
            "%s.", plan.folder / "jobs", ", ".join(unknown),
        )  # fmt: skip
    return masks


def _losses(
    name: str, model: Recogniser, masks: Mapping[str, Tensor], pixels: Tensor, labels: Tensor, data: FaceDataModule,
    batch_size: int,
) -> dict[str, float]:  # fmt: skip
    """Return mask → F of a scorer."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scorer = MaskScorer(
        model, pixels, labels, mean=data.mean, std=data.std, batch_size=batch_size, device=device
    )
    losses = {}
    for label, mask in masks.items():
        losses[label] = scorer.score(mask)
        log.info("%s, %s: F %.3f", name, label, losses[label])
    return losses


def _correlations(
    losses: By, accuracy: By, masks: list[str], bootstrap: int, seed: int
) -> tuple[dict[str, float], list[list[object]]]:
    """Return the metrics of every scorer and system, and their rows of the table."""
    metrics: dict[str, float] = {}
    rows: list[list[object]] = []
    for name, of in losses.items():
        for system in dict.fromkeys(s for found in accuracy.values() for s in found):
            both = [label for label in masks if system in accuracy[label]]
            rho = rank_correlation(
                np.array([-of[label] for label in both]),
                np.array([accuracy[label][system] for label in both]),
                np.zeros(len(both), dtype=np.int64), bootstrap, seed,
            )  # fmt: skip
            for key in ("rho", "rho_low", "rho_high"):
                metrics[f"scorers/{name}/{system}/{key}"] = rho[key]
            rows.append(
                [name, system, len(both), rho["rho"], f"{rho['rho_low']:.2f} … {rho['rho_high']:.2f}"]
            )
    return metrics, rows
